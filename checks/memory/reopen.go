package memory

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// NewFile returns the store of OpenFile, which is opened when it is first asked, and
// tried again after that failed: a disk that is full when the process starts may
// have room later.
func NewFile(folder string, now func() time.Time, log *slog.Logger) Store {
	return &reopened{
		open:  func() (Store, error) { return OpenFile(folder, now, log) },
		aside: func(torn error) error { return moveAside(filepath.Join(folder, fileName), now(), log, torn) },
	}
}

// CheckFile says whether a folder has a file that a newer Postern wrote (ErrNewer).
// A file that another process has open is as good as that process found it.
func CheckFile(folder string) error {
	const patience = time.Millisecond
	err := safely(func() error {
		db, err := bbolt.Open(filepath.Join(folder, fileName), 0, &bbolt.Options{ReadOnly: true, Timeout: patience})
		if err != nil {
			return err
		}
		defer func() { _ = db.Close() }() // nothing was written
		return db.View(func(tx *bbolt.Tx) error { return checkSchema(tx.Bucket(bucketMeta)) })
	})
	if errors.Is(err, ErrNewer) {
		return err
	}
	return nil // NOT: what else is wrong with it, which is no reason not to start
}

var errResting = errors.New("memory: another process has the store")

// reopened is a store that is opened when somebody asks it.
type reopened struct {
	open  func() (Store, error)
	aside func(torn error) error // moves away what lies where it is opened

	mu      sync.Mutex
	store   Store // nil: it is not open
	resting bool  // nobody may open it
	closed  bool
}

func (r *reopened) get() (Store, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, errClosed
	case r.resting:
		return nil, errResting
	case r.store != nil:
		return r.store, nil
	}
	s, err := r.open()
	if err != nil {
		return nil, err
	}
	r.store = s
	return s, nil
}

// rest closes the store and keeps it closed, or lets it be opened again.
func (r *reopened) rest(yes bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resting = yes
	if !yes || r.store == nil {
		return nil
	}
	s := r.store
	r.store = nil
	return s.Close()
}

// asked asks the store with one of its methods.
func asked[T any](r *reopened, f func(Store) (T, error)) (T, error) {
	s, err := r.get()
	if err != nil {
		var none T
		return none, err
	}
	v, err := f(s)
	if errors.Is(err, errTorn) {
		r.drop(s, err)
	}
	return v, err
}

// drop lets go of a store whose file is torn, and moves the file aside: what is
// opened next is a new one.
func (r *reopened) drop(s Store, torn error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.store != s || r.aside(torn) != nil {
		return
	}
	r.store = nil
	// NOT: waited for. What panicked may have left locks behind, by which Close hangs,
	// and there is nothing in it to be kept.
	go func() { _ = s.Close() }()
}

// Recall implements Store.
func (r *reopened) Recall(ctx context.Context, k Keys) (Recalled, error) {
	return asked(r, func(s Store) (Recalled, error) { return s.Recall(ctx, k) })
}

// Add implements Store.
func (r *reopened) Add(ctx context.Context, keep time.Duration, events []Event) error {
	_, err := asked(r, func(s Store) (struct{}, error) { return struct{}{}, s.Add(ctx, keep, events) })
	return err
}

// Notice implements Store.
func (r *reopened) Notice(ctx context.Context, id string) (Notice, error) {
	return asked(r, func(s Store) (Notice, error) { return s.Notice(ctx, id) })
}

// Hold implements Store.
func (r *reopened) Hold(ctx context.Context, n Notice, b Bounds) (Notice, error) {
	return asked(r, func(s Store) (Notice, error) { return s.Hold(ctx, n, b) })
}

// Waiting implements Store.
func (r *reopened) Waiting(ctx context.Context, newest bool, f func(Notice) bool) error {
	_, err := asked(r, func(s Store) (struct{}, error) { return struct{}{}, s.Waiting(ctx, newest, f) })
	return err
}

// Pass implements Store.
func (r *reopened) Pass(ctx context.Context, ids []string) ([]Notice, error) {
	return asked(r, func(s Store) ([]Notice, error) { return s.Pass(ctx, ids) })
}

// Release implements Store.
func (r *reopened) Release(ctx context.Context, ids []string) ([]Notice, error) {
	return asked(r, func(s Store) ([]Notice, error) { return s.Release(ctx, ids) })
}

// Sizes implements Store.
func (r *reopened) Sizes(ctx context.Context) (Sizes, error) {
	return asked(r, func(s Store) (Sizes, error) { return s.Sizes(ctx) })
}

// Ping implements Store.
func (r *reopened) Ping(ctx context.Context) error {
	_, err := asked(r, func(s Store) (struct{}, error) { return struct{}{}, s.Ping(ctx) })
	return err
}

// Close implements Store.
func (r *reopened) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.store == nil {
		return nil
	}
	return r.store.Close()
}
