// Package doctor finds out whether a machine is fit for levelfs: what has to be
// installed, what the kernel can do, and what answers. What the kernel can do it tries,
// in a mount namespace that is given up at once, since version numbers say nothing about
// back-ports.
//
// Nothing is written, and no mount can be seen from outside. Preconditions: root, or the
// kernel cannot be tried.
//
// When not to use it: for a machine that is in use, from cron. That is package check's.
package doctor
