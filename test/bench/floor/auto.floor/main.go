// Command auto.floor is a program map that decides nothing: what the start of any
// Go map program costs.
package main

import "os"

func main() { os.Stdout.WriteString("-fstype=floor,rw :" + os.Args[1] + "\n") }
