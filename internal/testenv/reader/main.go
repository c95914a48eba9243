// Command reader opens and reads files again and again, until its standard input ends.
// Every byte of a file has to be the same, as in files that consist of the digit of a
// level: otherwise it was read from two. At the end it prints how many it has opened, how
// many could not be opened or read, and how many were mixed.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

func main() {
	var over atomic.Bool
	go func() {
		// It ends when nobody has the other end any more: then, or with an error.
		_, _ = io.Copy(io.Discard, os.Stdin)
		over.Store(true)
	}()
	var opened, failed, mixed int
	for !over.Load() {
		for _, path := range os.Args[1:] {
			opened++
			text, err := read(path)
			switch {
			case err != nil || len(text) == 0:
				failed++
				fmt.Fprintln(os.Stderr, path, len(text), err)
			case bytes.Count(text, text[:1]) != len(text):
				mixed++
			}
		}
	}
	fmt.Println(opened, failed, mixed)
}

// read reads in pieces, so that a change can come in between.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var text []byte
	piece := make([]byte, 1024)
	for {
		n, err := f.Read(piece)
		text = append(text, piece[:n]...)
		if err == io.EOF {
			return text, nil
		}
		if err != nil {
			return text, err
		}
	}
}
