package memory

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/valkey-io/valkey-go"
)

// The keys of notices. The first letter of an id, which all notices of a sender have in
// common, stands in braces: so each shelf of them, of which there are 32, is in one place
// of a cluster, and a script can count it and add to it in one step.
const shelves = "0123456789abcdefghjkmnpqrstvwxyz"

func (f *fleet) onShelf(kind, shelf, rest string) string {
	return f.of.Prefix + kind + ":{" + shelf + "}" + rest
}

func (f *fleet) noticeKey(id string) string { return f.onShelf("h", id[:1], ":"+id) }

// waitingKey and passedKey are the sorted sets that list the notices of a shelf, by the
// time of the last try or mark, in milliseconds since 1970.
func (f *fleet) waitingKey(shelf string) string { return f.onShelf("waiting", shelf, "") }
func (f *fleet) passedKey(shelf string) string  { return f.onShelf("passed", shelf, "") }

// holderKey is the sorted set that lists those of one sender which wait. The first four
// keys of a script are these.
func (f *fleet) holderKey(n Notice) string {
	k := n.holder()
	return f.onShelf("of", n.ID[:1], ":"+idEncoding.EncodeToString(k[:]))
}

func (f *fleet) scriptKeys(n Notice) []string {
	shelf := n.ID[:1]
	return []string{f.noticeKey(n.ID), f.waitingKey(shelf), f.passedKey(shelf), f.holderKey(n)}
}

// holdScript counts one more try of a notice in one step, so that two Posterns that are
// asked at once agree on which came first, and on whether there was room for both. It
// answers 'sender' or 'all' where there is none.
var holdScript = valkey.NewLuaScript(`
local id, now, life, stale, notices = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[7]
if not redis.call('ZSCORE', KEYS[2], id) then
  for i = 2, 4 do redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now - life * 1000) end
  local gone
  local own = redis.call('ZSCORE', KEYS[3], id) and 1 or 0
  if redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[5]) then
    gone = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', stale, 'LIMIT', 0, 1)[1]
    if not gone then return 'sender' end
  elseif redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3]) - own >= tonumber(ARGV[6]) then
    gone = redis.call('ZRANGE', KEYS[3], 0, 0)[1] or redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', stale, 'LIMIT', 0, 1)[1]
    if not gone then return 'all' end
  end
  if gone and gone ~= id then
    local holder = redis.call('HGET', notices .. gone, 'of')
    if holder then redis.call('ZREM', holder, gone) end
    for i = 2, 4 do redis.call('ZREM', KEYS[i], gone) end
    redis.call('DEL', notices .. gone)
  end
end
redis.call('HSETNX', KEYS[1], 'first', ARGV[8])
local tries = redis.call('HINCRBY', KEYS[1], 'tries', 1)
redis.call('HSET', KEYS[1], 'last', ARGV[8], 'who', ARGV[9], 'from', ARGV[10], 'rcpt', ARGV[11], 'rule', ARGV[12], 'of', KEYS[4])
redis.call('HDEL', KEYS[1], 'passed')
redis.call('ZREM', KEYS[3], id)
redis.call('ZADD', KEYS[2], now, id)
redis.call('ZADD', KEYS[4], now, id)
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], life) end
local was = redis.call('HMGET', KEYS[1], 'first', 'released')
return {was[1], tries, was[2] or '0'}`)

// markScript marks a notice that is there and had not that mark. What has passed waits no
// more.
var markScript = valkey.NewLuaScript(`
local id, now, life, mark = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HSETNX', KEYS[1], mark, '1') == 0 then return 0 end
if mark == 'passed' then
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZADD', KEYS[3], now, id)
else
  redis.call('ZADD', KEYS[2], 'XX', now, id)
  redis.call('ZADD', KEYS[4], 'XX', now, id)
end
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], life) end
return 1`)

const life = int64(noticeLife / time.Second)

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// Notice implements Store.
func (f *fleet) Notice(ctx context.Context, id string) (Notice, error) {
	c, err := f.connect()
	if err != nil {
		return Notice{}, err
	}
	return readNotice(id, c.Do(ctx, c.B().Hgetall().Key(f.noticeKey(id)).Build()))
}

func readNotice(id string, a valkey.ValkeyResult) (Notice, error) {
	m, err := a.AsStrMap()
	if err != nil || len(m) == 0 {
		return Notice{}, err
	}
	n := Notice{ID: id, Who: m["who"], From: m["from"], Rcpt: m["rcpt"], Rule: m["rule"], Released: m["released"] == "1", Passed: m["passed"] == "1"}
	first, err1 := strconv.ParseInt(m["first"], 10, 64)
	last, err2 := strconv.ParseInt(m["last"], 10, 64)
	tries, err3 := strconv.Atoi(m["tries"])
	if err := errors.Join(err1, err2, err3); err != nil {
		return Notice{}, errValue
	}
	n.First, n.Last, n.Tries = time.Unix(first, 0), time.Unix(last, 0), tries
	return n, nil
}

// Hold implements Store, in one round trip. The notice is as safe as the servers keep it:
// see what the doctor says of theirs. Each shelf has its part of the bound for all.
func (f *fleet) Hold(ctx context.Context, n Notice, b Bounds) (Notice, error) {
	c, err := f.connect()
	if err != nil {
		return n, err
	}
	now := f.of.Now()
	shelf := max(b.Notices/len(shelves), 1)
	a := holdScript.Exec(ctx, c, f.scriptKeys(n), []string{
		n.ID, decimal(now.UnixMilli()), decimal(life), decimal(now.Add(-idle).UnixMilli()),
		decimal(int64(b.PerSender)), decimal(int64(shelf)), f.onShelf("h", n.ID[:1], ":"),
		decimal(now.Unix()), n.Who, n.From, n.Rcpt, n.Rule,
	})
	switch full, _ := a.ToString(); full {
	case "sender":
		return n, ErrSenderFull
	case "all":
		return n, ErrFull
	}
	got, err := numbers(a)
	if err != nil {
		return n, err
	}
	if len(got) != 3 {
		return n, errValue
	}
	n.First, n.Last, n.Tries, n.Released = time.Unix(got[0], 0), now, int(got[1]), got[2] == 1
	return n, nil
}

// Release implements Store.
func (f *fleet) Release(ctx context.Context, ids []string) ([]Notice, error) {
	return f.mark(ctx, ids, "released", func(n *Notice) *bool { return &n.Released })
}

// Pass implements Store.
func (f *fleet) Pass(ctx context.Context, ids []string) (list []Notice, err error) {
	return f.mark(ctx, ids, "passed", func(n *Notice) *bool { return &n.Passed })
}

// mark sets one of the marks of notices and returns those that did not have it.
func (f *fleet) mark(ctx context.Context, ids []string, which string, of func(*Notice) *bool) (list []Notice, err error) {
	c, err := f.connect()
	if err != nil {
		return nil, err
	}
	for some := range slices.Chunk(ids, pageSize) {
		notices, err := f.notices(ctx, c, some)
		if err != nil {
			return list, err
		}
		for _, n := range notices {
			if n.First.IsZero() || *of(&n) {
				continue
			}
			marked, err := markScript.Exec(ctx, c, f.scriptKeys(n), []string{n.ID, decimal(f.of.Now().UnixMilli()), decimal(life), which}).AsInt64()
			if err != nil {
				return list, err
			}
			if marked == 1 {
				*of(&n) = true
				list = append(list, n)
			}
		}
	}
	return list, nil
}

// pageSize is how many notices are read in one round trip.
const pageSize = 100

// notices reads notices by their ids; the First of one is zero that is not there, or of
// which nobody can make anything.
func (f *fleet) notices(ctx context.Context, c valkey.Client, ids []string) ([]Notice, error) {
	cmds := make([]valkey.Completed, 0, len(ids))
	for _, id := range ids {
		cmds = append(cmds, c.B().Hgetall().Key(f.noticeKey(id)).Build())
	}
	list := make([]Notice, 0, len(ids))
	for i, a := range c.DoMulti(ctx, cmds...) {
		n, err := readNotice(ids[i], a)
		if err != nil && !errors.Is(err, errValue) {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// Waiting implements Store. It reads a page of each shelf at a time, and gives what they
// have in one order.
func (f *fleet) Waiting(ctx context.Context, newest bool, do func(Notice) bool) error {
	c, err := f.connect()
	if err != nil {
		return err
	}
	pages := make([]page, len(shelves))
	for i := range pages {
		pages[i] = page{of: f, c: c, key: f.waitingKey(shelves[i : i+1]), newest: newest}
	}
	for {
		first := -1
		for i := range pages {
			if err := pages[i].fill(ctx); err != nil {
				return err
			}
			if pages[i].over() {
				continue
			}
			if first < 0 || pages[i].scores[0] != pages[first].scores[0] && pages[i].scores[0] > pages[first].scores[0] == newest {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		if n := pages[first].next(); !n.First.IsZero() && !n.Passed && !do(n) {
			return nil
		}
	}
}

// page is some notices of a shelf.
type page struct {
	of     *fleet
	c      valkey.Client
	key    string
	newest bool

	notices []Notice
	scores  []float64
	seen    map[string]bool // the ids that were read of the last score
	last    float64         // that score
	begun   bool
	ended   bool // there are no more
}

func (p *page) over() bool { return len(p.notices) == 0 }

func (p *page) next() Notice {
	n := p.notices[0]
	p.notices, p.scores = p.notices[1:], p.scores[1:]
	return n
}

// fill reads on where the page is at its end: from the last score that it had, of which
// there may be more, but for those that it had.
func (p *page) fill(ctx context.Context) error {
	for p.over() && !p.ended {
		from, to := "-inf", "+inf"
		if p.newest {
			from, to = to, from
		}
		if p.begun {
			from = strconv.FormatFloat(p.last, 'f', -1, 64)
		}
		count := int64(pageSize + len(p.seen))
		var cmd valkey.Completed
		if p.newest {
			cmd = p.c.B().Zrevrangebyscore().Key(p.key).Max(from).Min(to).Withscores().Limit(0, count).Build()
		} else {
			cmd = p.c.B().Zrangebyscore().Key(p.key).Min(from).Max(to).Withscores().Limit(0, count).Build()
		}
		list, err := p.c.Do(ctx, cmd).AsZScores()
		if err != nil && !valkey.IsValkeyNil(err) {
			return err
		}
		p.ended = int64(len(list)) < count
		var ids []string
		for _, z := range list {
			if p.begun && z.Score == p.last && p.seen[z.Member] {
				continue
			}
			if !p.begun || z.Score != p.last {
				p.begun, p.last, p.seen = true, z.Score, map[string]bool{}
			}
			p.seen[z.Member] = true
			ids, p.scores = append(ids, z.Member), append(p.scores, z.Score)
		}
		if len(ids) == 0 {
			continue
		}
		if p.notices, err = p.of.notices(ctx, p.c, ids); err != nil {
			return err
		}
	}
	return nil
}

// Sizes implements Store. Of keys that a server shares with others it counts the
// notices that wait, and says nothing of octets.
func (f *fleet) Sizes(ctx context.Context) (Sizes, error) {
	c, err := f.connect()
	if err != nil {
		return Sizes{}, err
	}
	s := Sizes{Entries: map[string]int64{}, Bytes: -1}
	cmds := make([]valkey.Completed, 0, len(shelves))
	for i := range shelves {
		cmds = append(cmds, c.B().Zcard().Key(f.waitingKey(shelves[i:i+1])).Build())
	}
	for _, a := range c.DoMulti(ctx, cmds...) {
		n, err := a.AsInt64()
		if err != nil {
			return s, err
		}
		s.Entries["hold"] += n
	}
	return s, nil
}
