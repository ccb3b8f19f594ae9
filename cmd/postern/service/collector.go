package service

// reserve is how many octets of address space the collector counts as used, and that
// nobody ever touches.
const reserve = 16 << 20

// newReserve returns memory that is held and never touched, so that the garbage collector
// runs each time when as much again as it and the live heap has been allocated. The heap
// that serves mail is so small, 4 MB or so, that the collector would otherwise run for each
// two hundred messages, and take a twentieth of the time. The pages of the reserve are never
// resident: only the garbage between two collections is, and an idle process has none. It
// loses its weight by itself where the live heap is large; a higher GOGC would multiply
// there.
func newReserve() []byte { return make([]byte, reserve) }
