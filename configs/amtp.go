package configs

// AMTP is the Authenticated Mail Transfer Protocol.
type AMTP struct {
	Hold AMTPHold `yaml:"hold"`
}
