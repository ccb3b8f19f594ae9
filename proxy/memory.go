package proxy

// sessionMemory is what one session holds at the most, in octets, whatever its
// client, the DNS and the length of the message do, apart from what counts against
// limits.held. TestWorstSession builds the worst ones and measures them: 380 to 485
// KiB under the race detector.
//
//	what                                     at most     bounded by
//	the session, its stack, its socket       40 KiB      -
//	TLS                                      40 KiB      records of 16 KiB
//	commands read ahead                       4 KiB      wire: commandBuffer
//	octets behind the end of a message       32 KiB      wire.BlockSize
//	replies not yet sent                      4 KiB      wire: outLimit, and one reply
//	the block being read                     32 KiB      wire.BlockSize
//	the connection to the backend            40 KiB      its bufferSize, and TLS as above
//	recipients, also refused ones           224 KiB      limits.recipients, envelopeLimit, and one recipient
//	tags of recipients                       20 KiB      recipientTags
//	DNS answers for the journal              48 KiB      dnscache: 200 answers, 48 KiB of text
//	DNS answers for one use                  16 KiB      dnscache: maxOnce
//	header section, gathered and its copy    32 KiB      smallHeader; what is larger counts against hold.Memory
//	its fields                               48 KiB      limits.header_fields
//
// Not all of it at the same time: fields are there while a header section is judged,
// octets behind the end when that is over. A client that says nothing holds none of
// it but the first line (a few KiB, see parking), and what was asked ahead behind its EHLO where
// that is for one use.
//
// For all sessions together: messages that are held, limits.held; what of them is in
// memory, and large header sections, hold.Memory; blocks of 128 KiB for what comes fast,
// and what they bring behind the end of a message, 8 MiB (wire: maxWide).
const sessionMemory = 512 << 10
