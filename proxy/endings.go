package proxy

// ending is how a session ended, as its log line and connections_total say it.
type ending string

// The endings of a session. Dashboards, alerts and searches in logs go by them.
const (
	endedLost              ending = "lost" // the client went away; also of a session that goes on
	endedClosed            ending = "closed"
	endedQuit              ending = "quit"
	endedTimeout           ending = "timeout"
	endedShutdown          ending = "shutdown"
	endedGaveWay           ending = "gave_way"
	endedPanic             ending = "panic"
	endedRefused           ending = "refused"
	endedDeferred          ending = "deferred"
	endedConnectionRate    ending = "connection_rate"
	endedErrorRate         ending = "error_rate"
	endedClientLimit       ending = "client_limit"
	endedNetworkLimit      ending = "network_limit"
	endedLimit             ending = "limit"
	endedIPv6              ending = "ipv6"
	endedErrors            ending = "errors"
	endedIdleTalk          ending = "idle_talk"
	endedBareLF            ending = "bare_lf"
	endedBdatSyntax        ending = "bdat_syntax"
	endedUnsynchronized    ending = "unsynchronized"
	endedStartTLSInjection ending = "starttls_injection"
	endedTLSFailed         ending = "tls_failed"
	endedNoCertificate     ending = "no_certificate"
	endedProxyHeader       ending = "proxy_header"
	endedHTTP              ending = "http"
	endedTLS               ending = "tls"
)

// endings are all of them: each is a series of a listener from the start.
var endings = []string{
	string(endedLost), string(endedClosed), string(endedQuit), string(endedTimeout), string(endedShutdown), string(endedGaveWay), string(endedPanic),
	string(endedRefused), string(endedDeferred), string(endedConnectionRate), string(endedErrorRate), string(endedClientLimit), string(endedNetworkLimit),
	string(endedLimit), string(endedIPv6), string(endedErrors), string(endedIdleTalk), string(endedBareLF), string(endedBdatSyntax), string(endedUnsynchronized),
	string(endedStartTLSInjection), string(endedTLSFailed), string(endedNoCertificate), string(endedProxyHeader), string(endedHTTP), string(endedTLS),
}
