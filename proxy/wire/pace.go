package wire

import "time"

const (
	// dataCeiling bounds a whole DATA, as a multiple of timeouts.data_block: an
	// hour where that is three minutes.
	dataCeiling = 20
	// minRate is what a client must bring on the average, in octets per second,
	// once timeouts.data_block has passed; a message of 1 MB may take nearly
	// the hour.
	minRate = 256
)

// Pace holds a client to its pace in DATA and BDAT: it may pause for a while,
// it may be slow for a while, and it may not take for ever.
type Pace struct {
	block   time.Duration
	began   time.Time
	ceiling time.Time
}

// NewPace begins now; the client may pause for as long as block.
func NewPace(block time.Duration) Pace {
	now := time.Now()
	return Pace{block: block, began: now, ceiling: now.Add(dataCeiling * block)}
}

// IsZero says that nothing has begun.
func (p *Pace) IsZero() bool { return p.block == 0 }

// Rest says that for d nobody waited for the client: what was done meanwhile took our own time, and is not its pace.
func (p *Pace) Rest(d time.Duration) { p.began, p.ceiling = p.began.Add(d), p.ceiling.Add(d) }

// Arm sets the deadline for the next octets, octets having come so far.
func (p *Pace) Arm(c *Conn, octets int64) {
	now := time.Now()
	deadline := now.Add(p.block)
	if deadline.After(p.ceiling) {
		deadline = p.ceiling
	}
	if ran := now.Sub(p.began); ran > p.block && float64(octets) < minRate*(ran-p.block).Seconds() {
		deadline = now
	}
	c.ReadBy(deadline)
}
