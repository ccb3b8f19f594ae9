package service

import "runtime/debug"

// forgetStart gives back what only the start of the process has needed: the garbage of
// reading a configuration, which the collector would leave where it is until it first runs,
// and the pages of the program that are not run while it serves. What of them is needed
// after all comes again by itself.
func forgetStart() {
	forgetPages() // so that the collector's own do not come on top
	debug.FreeOSMemory()
	forgetPages()
}
