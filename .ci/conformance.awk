# Makes one table of what `go test -v` prints of the suites (make conformance).
#
# A suite prints "conformance: NAME cases=1 passed=1 deviations=0", and for each
# case that is answered otherwise "conformance deviation: NAME: CASE: REASON" or
# "NAME CASE deviates: ...; because: REASON". The suites of checks/dnscache have a
# subtest for each case; what they answer otherwise stands in a table in
# rpl_test.go, the first file to read.

# ---- rpl_test.go

FNR == NR {
	if (/^var deviations = /) inside = 1
	if (inside && /^}/) inside = 0
	if (inside && match($0, /"[a-z0-9_]+\.rpl":/)) {
		file = substr($0, RSTART + 1, RLENGTH - 3)
		deviating++
		if (/[{]0: /) absent++
	}
	if (inside && match($0, /[0-9]+: ".*"/)) {
		step = substr($0, RSTART, RLENGTH); gsub(/"/, "", step)
		sub(/^0: /, "", step); sub(/^[0-9]+: /, "step &", step)
		note("unbound: " file ": " step)
	}
	next
}

# ---- the output

/: conformance: / {
	name = $0; sub(/.*: conformance: /, "", name); sub(/ cases=.*/, "", name)
	row(name, number("cases"), number("passed"), number("deviations"))
}
/: conformance deviation: / { sub(/.*: conformance deviation: /, ""); note($0) }
/ deviates: .*; because: / {
	why = $0; sub(/.*; because: /, "", why)
	sub(/^ *[a-z_]+\.go:[0-9]+: /, ""); sub(/ deviates: .*/, "")
	set = $2 ~ /^bracketed/ # played with brackets: reasons of their own
	if (why == "likewise") why = last[set]
	last[set] = why
	note($1 ": " $2 ": " why)
}
/^ +--- PASS: TestResponses\// { responses++ }
/^ +--- PASS: TestUnboundScenarios\// { scenarios++ }

# What a package printed comes before its own line.
/^ok +\t?[^ \t]+/ {
	if ($2 ~ /\/dnscache$/) {
		row("responses-dev", responses, responses, 0)
		row("unbound", scenarios + absent, scenarios + absent - deviating, deviating)
	}
	sub(/^[^\/]*\//, "", $2)
	for (i = flushed + 1; i <= rows; i++) room[i] = $2
	if (rows > flushed) seen[$2] = 1
	flushed = rows
}

function number(key,   v) { v = $0; sub(".* " key "=", "", v); return v + 0 }
function note(text) { notes[++noted] = text }
function row(name, cases, passed, deviations) {
	suite[++rows] = name; all[rows] = cases; good[rows] = passed; other[rows] = deviations
	if (cases == 0 || cases != passed + deviations) bad = bad "\n" name " does not add up"
}

END {
	form = "%-16s %-38s %6s %7s %11s\n"
	printf form, "room", "suite", "cases", "passed", "deviations"
	for (i = 1; i <= rows; i++) {
		printf form, room[i], suite[i], all[i], good[i], other[i]
		cases += all[i]; passed += good[i]; deviations += other[i]
	}
	printf form, "", rows " suites", cases, passed, deviations
	print "\nDeviations, and why:"
	for (i = 1; i <= noted; i++) print "  " notes[i]
	print "\nNot run: lists of public suffixes (RFC 9989 finds the organizational domain by walking the DNS)"
	print "and ARC (RFC 8617, on its way to Historic: Postern leaves its fields alone)."
	split("checks checks/dnscache proxy proxy/smtp", rooms)
	for (i in rooms) if (!seen[rooms[i]]) bad = bad "\nno suite of " rooms[i] " was run"
	if (bad) { print bad; exit 1 }
}
