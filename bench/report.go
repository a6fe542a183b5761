package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// What is asked of all containers at once.
const (
	bulkInfo    = "bulk_info of all"
	bulkMetrics = "bulk_metrics of all"
)

// report collects times by name, in the order in which the names first came.
type report struct {
	names []string
	times map[string][]time.Duration
	notes map[string]string
	own   int64
}

func (r *report) add(name string, took time.Duration) {
	if r.times == nil {
		r.times = map[string][]time.Duration{}
	}
	if _, known := r.times[name]; !known {
		r.names = append(r.names, name)
	}
	r.times[name] = append(r.times[name], took)
}

// note says something about a name, beside its times.
func (r *report) note(name, format string, arguments ...any) {
	if r.notes == nil {
		r.notes = map[string]string{}
	}
	r.notes[name] = fmt.Sprintf(format, arguments...)
}

// memory takes gardend's own bytes, and those of all that belongs to so many idle containers.
func (r *report) memory(own, all int64, containers int) {
	r.own = own
	name := "memory"
	r.names = append(r.names, name)
	r.note(name, "gardend %.1f MB; containerd, shims and inits %.2f MB a container, at %d",
		megabytes(own), megabytes(all)/float64(containers), containers)
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// quantile is the time that a share of all did not pass.
func (r *report) quantile(name string, share float64) time.Duration {
	times := slices.Sorted(slices.Values(r.times[name]))
	if len(times) == 0 {
		return 0
	}
	return times[min(len(times)-1, int(share*float64(len(times))))]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *report) print(to io.Writer) {
	fmt.Fprintf(to, "%-44s %6s %9s %9s\n", "", "n", "p50 ms", "p99 ms")
	for _, name := range r.names {
		if times := r.times[name]; len(times) > 0 {
			fmt.Fprintf(to, "%-44s %6d %9.2f %9.2f", name, len(times), milliseconds(r.quantile(name, 0.5)), milliseconds(r.quantile(name, 0.99)))
		} else {
			fmt.Fprintf(to, "%-44s", name)
		}
		fmt.Fprintf(to, "  %s\n", r.notes[name])
	}
}

// check prints the bars and whether they are met.
func (r *report) check(to io.Writer) (missed bool) {
	bar := func(what string, got, limit float64, unit string) {
		verdict := "met"
		if got > limit {
			verdict, missed = "MISSED", true
		}
		fmt.Fprintf(to, "%-44s %9.2f of at most %.2f %s: %s\n", what, got, limit, unit, verdict)
	}
	ratio := func(of, to string) float64 {
		return float64(r.quantile(of, 0.5)) / float64(max(1, r.quantile(to, 0.5)))
	}
	fmt.Fprintln(to)
	bar("further process / floor's exec", ratio("further process", "floor: exec"), 0.25, "times")
	// Like with like: an unprivileged container has a user namespace, and a privileged one none.
	bar("create, pool 0 / floor's create + start, user ns", ratio("create, pool 0", "floor: create + start, user namespace"), 1.2, "times")
	bar("the same, privileged, without one", ratio("create, pool 0, privileged", "floor: create + start"), 1.2, "times")
	bar("bulk_info of many", milliseconds(r.quantile(bulkInfo, 0.5)), 10, "ms")
	bar("bulk_metrics of many", milliseconds(r.quantile(bulkMetrics, 0.5)), 50, "ms")
	bar("gardend's own memory (PSS)", megabytes(r.own), 30, "MB")
	return missed
}
