# The output of a fuzz run that has failed: exit 0 if nothing failed but the fuzzer's
# own sense of time (go.dev/issue/75804). That failure is one line below the target's
# name, and no other line but those of the go command's summary follows.
/^    context deadline exceeded$/ && after { late = 1; after = 0; next }
{ after = 0 }
/^--- FAIL: Fuzz/ { failures++; after = 1; next }
/Failing input|^panic:|^fatal error:|DATA RACE|^    --- FAIL/ { real = 1 }
END { exit !(failures == 1 && late && !real) }
