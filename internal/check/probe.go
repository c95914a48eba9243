package check

import (
	"context"
	"fmt"
	"time"
)

// A SlowError is a look that was given up.
type SlowError struct{ After time.Duration }

func (e *SlowError) Error() string {
	return fmt.Sprintf("no answer within %v", e.After.Round(10*time.Millisecond))
}

// Try runs look and returns what it returns, or a *SlowError when the time is over,
// even if look never returns: it hands its result over as a value, and shares nothing
// with its caller.
func Try[T any](ctx context.Context, limit time.Duration, look func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		var r result
		r.value, r.err = look(ctx)
		done <- r
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	// One that obeys its context says better what it was waiting for.
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(100 * time.Millisecond):
		var none T
		return none, &SlowError{time.Since(start)}
	}
}
