package guest

import (
	"fmt"
	"os"
)

// CheckFile returns an error if the file does not have that text, which a guest has
// shown. With update it writes the file instead.
func CheckFile(file, text string, update bool) error {
	if update {
		return os.WriteFile(file, []byte(text), 0o644)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if text != string(want) {
		return fmt.Errorf("not as in %s (-update writes it anew):\n%s", file, text)
	}
	return nil
}
