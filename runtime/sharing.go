package runtime

import (
	"context"
	"sync"
)

// sharing is what several users have of a kind, by a key: made for the first one, and gone with the last. Its methods are safe for
// concurrent use. No lock is held while a thing is made.
type sharing[K comparable, V any] struct {
	mu     sync.Mutex
	things map[K]*shared[V]
}

// shared is one thing. value and err are valid once made is closed.
type shared[V any] struct {
	users int
	made  chan struct{}
	value V
	err   error
}

// acquire returns the thing of a key, which it makes if there is none. Of several at once one makes it and the others wait; if it
// cannot, the next one tries.
func (s *sharing[K, V]) acquire(ctx context.Context, key K, create func(context.Context) (V, error)) (V, error) {
	for {
		thing, mine := s.find(key)
		if mine {
			thing.value, thing.err = create(ctx)
			if thing.err != nil {
				s.release(key)
			}
			close(thing.made)
			return thing.value, thing.err
		}
		select {
		case <-thing.made:
			if s.join(key, thing) {
				return thing.value, nil
			}
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
	}
}

// find returns the thing of a key, and whether it is the caller's to make.
func (s *sharing[K, V]) find(key K) (thing *shared[V], mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if thing = s.things[key]; thing != nil {
		return thing, false
	}
	if s.things == nil {
		s.things = map[K]*shared[V]{}
	}
	thing = &shared[V]{users: 1, made: make(chan struct{})}
	s.things[key] = thing
	return thing, true
}

// join adds a user to a thing that was made, and tells whether it is still there.
func (s *sharing[K, V]) join(key K, thing *shared[V]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.things[key] != thing {
		return false
	}
	thing.users++
	return true
}

// release ends one use of a thing, and tells whether it was the last: the thing is then the caller's to remove.
func (s *sharing[K, V]) release(key K) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	thing := s.things[key]
	thing.users--
	if thing.users > 0 {
		return false
	}
	delete(s.things, key)
	return true
}
