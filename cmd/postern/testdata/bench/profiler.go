package main

import (
	"log"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
)

// This file is no part of Postern. The benchmark builds it in (go build -overlay), to
// ask which functions allocate: each allocation is counted from here on.
var _ = func() bool {
	runtime.MemProfileRate = 1
	allocations := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		runtime.GC() // the profile has what there was two collections ago
		runtime.GC()
		if err := pprof.Lookup("allocs").WriteTo(w, 1); err != nil {
			log.Print(err)
		}
	})
	go func() { log.Fatal(http.ListenAndServe(os.Getenv("PROFILER"), allocations)) }()
	return true
}()
