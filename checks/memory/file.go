package memory

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// schema is the version of what the file holds. A file of a newer one is not
	// touched.
	schema = 1
	// fileName is the file within state.path.
	fileName = "state.db"
	// openTimeout is how long another process may keep the file: the old one, which
	// hands over and lets go of it.
	openTimeout = 10 * time.Second
	// sweepEvery is how often what is forgotten is taken away.
	sweepEvery = 10 * time.Minute
	// shrinkFrom is from what size on, in octets, a file that is mostly empty is
	// written anew when it is opened.
	shrinkFrom = 16 << 20
	// mapped is how much of the address space, in octets, is set aside for the file. One
	// that outgrows what is set aside is mapped anew, and that waits for all who read it,
	// and lets nobody begin to read meanwhile: what counts the notices, or lists them,
	// would keep mail from the store.
	mapped = 256 << 20
)

var (
	bucketMeta = []byte("meta")
	keySchema  = []byte("schema")
)

// ErrNewer says that a file was written by a newer Postern.
var ErrNewer = errors.New("the state was written by a newer version of Postern; use that version, or move the file away to begin anew")

// OpenFile opens the store in a folder, which is made where it is missing. A file
// that is torn is moved aside, begun anew, and told of loudly: what was remembered
// is then gone, and no mail with it.
func OpenFile(folder string, now func() time.Time, log *slog.Logger) (Store, error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, err
	}
	path := filepath.Join(folder, fileName)
	db, err := openOrMake(path)
	if err != nil && isTorn(err) {
		if err := moveAside(path, now(), log, err); err != nil {
			return nil, err
		}
		db, err = openOrMake(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := &file{db: db}
	l := &local{on: f, now: now}
	if err := l.list(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.sweeper.Go(func() { f.sweep(ctx, l, log) })
	return l, nil
}

// moveAside gives a torn file another name, and says so.
func moveAside(path string, now time.Time, log *slog.Logger, torn error) error {
	aside := fmt.Sprintf("%s.torn-%s", path, now.UTC().Format("20060102T150405"))
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	log.Error("the state file cannot be read and was moved aside; what was remembered begins anew", "file", path, "aside", aside, "error", torn)
	return nil
}

// isTorn says whether a file is damaged, and not merely out of reach: a disk that is full
// or fails says so by an error of the system's, and opening writes.
func isTorn(err error) bool {
	var system syscall.Errno
	return !errors.Is(err, ErrNewer) && !errors.Is(err, bolterrors.ErrTimeout) && !errors.As(err, &system)
}

// openOrMake is openBolt, and leaves nothing of a file that it could not make to its end:
// the next one would take it for one that is torn. One that another process made meanwhile
// and keeps is that process's.
func openOrMake(path string) (*bbolt.DB, error) {
	_, missing := os.Lstat(path)
	db, err := openBolt(path)
	if err != nil && errors.Is(missing, fs.ErrNotExist) && !errors.Is(err, bolterrors.ErrTimeout) {
		_ = os.Remove(path)
	}
	return db, err
}

// openBolt opens a file, looks through it, and makes what is missing in it.
func openBolt(path string) (db *bbolt.DB, err error) {
	defer func() {
		if err != nil && db != nil {
			_ = db.Close()
			db = nil
		}
	}()
	err = safely(func() error {
		db, err = openTrusting(path)
		return err
	})
	return db, err
}

// openTrusting is openBolt for a file that can be trusted. For another it may
// panic.
func openTrusting(path string) (db *bbolt.DB, err error) {
	if db, err = bbolt.Open(path, 0o640, &bbolt.Options{Timeout: openTimeout, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapped}); err != nil {
		return nil, err
	}
	if err := db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return fmt.Errorf("torn: %w", err)
		}
		return nil
	}); err != nil {
		return db, err
	}
	if db, err = shrink(db, path); err != nil {
		return db, err
	}
	return db, db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if err := checkSchema(meta); err != nil {
			return err
		}
		for t := range tables {
			if _, err := tx.CreateBucketIfNotExists([]byte(t.String())); err != nil {
				return err
			}
		}
		return meta.Put(keySchema, binary.BigEndian.AppendUint64(nil, schema))
	})
}

// checkSchema reads of which version a file is; meta is nil in one that is new.
func checkSchema(meta *bbolt.Bucket) error {
	if meta == nil {
		return nil
	}
	if v := meta.Get(keySchema); len(v) == 8 && binary.BigEndian.Uint64(v) > schema {
		return ErrNewer
	}
	return nil
}

// shrink writes a large file anew when more than half of it is free: bbolt gives
// nothing back.
func shrink(db *bbolt.DB, path string) (*bbolt.DB, error) {
	var size int64
	if err := db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		return db, err
	}
	if free := int64(db.Stats().FreePageN) * int64(db.Info().PageSize); size < shrinkFrom || free < size/2 {
		return db, nil
	}
	fresh := path + ".new"
	_ = os.Remove(fresh)
	to, err := bbolt.Open(fresh, 0o640, &bbolt.Options{Timeout: openTimeout})
	if err != nil {
		_ = os.Remove(fresh)
		return db, nil // the disk is full, perhaps; the file serves as it is
	}
	const batch = 1 << 20 // octets
	if err := errors.Join(bbolt.Compact(to, db, batch), to.Close()); err != nil {
		_ = os.Remove(fresh)
		return db, nil
	}
	if err := db.Close(); err != nil {
		return db, err
	}
	if err := os.Rename(fresh, path); err != nil {
		return db, err
	}
	return bbolt.Open(path, 0o640, &bbolt.Options{Timeout: openTimeout, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapped})
}

// file is a medium in a file, by bbolt.
type file struct {
	db      *bbolt.DB
	stop    context.CancelFunc
	sweeper sync.WaitGroup
}

func (f *file) get(t table, key string) (value []byte, err error) {
	err = safely(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			if v := tx.Bucket([]byte(t.String())).Get([]byte(key)); v != nil {
				value = append([]byte{}, v...)
			}
			return nil
		})
	})
	return value, err
}

func (f *file) commit(ws []write) error {
	if len(ws) == 0 {
		return nil
	}
	return safely(func() error {
		return f.db.Update(func(tx *bbolt.Tx) error {
			for _, w := range ws {
				b := tx.Bucket([]byte(w.table.String()))
				var err error
				if w.value == nil {
					err = b.Delete([]byte(w.key))
				} else {
					err = b.Put([]byte(w.key), w.value)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (f *file) each(t table, after string, do func(string, []byte) bool) error {
	return safely(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket([]byte(t.String())).Cursor()
			k, v := c.Seek([]byte(after))
			if k != nil && string(k) == after {
				k, v = c.Next()
			}
			for ; k != nil; k, v = c.Next() {
				if !do(string(k), v) {
					break
				}
			}
			return nil
		})
	})
}

var errTorn = errors.New("the state file is torn")

// safely makes an error of what bbolt panics about: it trusts what it reads. The
// file is mapped into memory, so that one which is shorter than it says, or a disk
// that fails, is a fault of memory as well.
func safely(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errTorn, p)
		}
	}()
	return do()
}

func (f *file) sizes() (s Sizes, err error) {
	s.Entries = map[string]int64{}
	err = safely(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			s.Bytes = tx.Size()
			for t := range tables {
				s.Entries[t.String()] = int64(tx.Bucket([]byte(t.String())).Stats().KeyN)
			}
			return nil
		})
	})
	return s, err
}

func (f *file) close() error {
	f.stop()
	f.sweeper.Wait()
	return f.db.Close()
}

func (f *file) sweep(ctx context.Context, l *local, log *slog.Logger) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := l.sweep(ctx); err != nil && ctx.Err() == nil {
				log.Warn("what is forgotten could not be taken out of the state file", "error", err)
			}
		}
	}
}

// putSchema says of which version what the file holds is.
func putSchema(db *bbolt.DB, version uint64) error {
	return db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		return meta.Put(keySchema, binary.BigEndian.AppendUint64(nil, version))
	})
}
