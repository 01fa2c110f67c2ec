package protocol

import (
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// tuple marks a struct whose JSON is an array of its fields' values, all of which must be there.
type tuple interface{ tuple() }

// Pair is a name and a value, in JSON an array of two strings.
type Pair struct {
	Name  string
	Value string
}

// Pairs lists what a map has, in the order of the names.
func Pairs(values map[string]string) []Pair {
	var pairs []Pair
	for _, name := range slices.Sorted(maps.Keys(values)) {
		pairs = append(pairs, Pair{Name: name, Value: values[name]})
	}
	return pairs
}

// Share is a file share of the machine and where a container sees it, in JSON an array of two strings and a bool.
type Share struct {
	Tag      string
	Target   string
	ReadOnly bool
}

func (Pair) tuple()    {}
func (Share) tuple()   {}
func (Counter) tuple() {}

// MarshalJSONTo writes the pair as an array.
func (p Pair) MarshalJSONTo(enc *jsontext.Encoder) error {
	return json.MarshalEncode(enc, [...]any{p.Name, p.Value})
}

// MarshalJSONTo writes the share as an array.
func (s Share) MarshalJSONTo(enc *jsontext.Encoder) error {
	return json.MarshalEncode(enc, [...]any{s.Tag, s.Target, s.ReadOnly})
}

// MarshalJSONTo writes the counter as an array.
func (c Counter) MarshalJSONTo(enc *jsontext.Encoder) error {
	return json.MarshalEncode(enc, [...]any{c.Name, c.Value})
}
