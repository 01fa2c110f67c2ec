package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Codec turns the messages of one union into JSON and back. A message is a JSON object; one of its members, the tag, is the
// message's name, the others are the message's fields. A Codec is safe for concurrent use.
//
// How a field is decoded follows from its type and its "wire" tag: a field without one is required; wire:"default" may be
// missing, but not null; wire:"option" (a pointer, or raw JSON) may be missing or null. Unknown fields are ignored, which is
// how messages grow; unknown messages are errors.
type Codec[M any] struct {
	union string // for errors
	tag   string
	names map[reflect.Type]string
	types map[string]messageType
}

type messageType struct {
	reflect.Type
	decode decodeFunc
}

// The four unions.
var (
	HostMessages   = newCodec("host message", "type", hostMessages)
	GuestMessages  = newCodec("guest message", "type", guestMessages)
	AgentRequests  = newCodec("machine request", "method", agentRequests)
	AgentResponses = newCodec("machine response", "status", agentResponses)
)

// Envelope is a message and the id of the trace that it belongs to.
type Envelope[M any] struct {
	TraceID *string
	Body    M
}

// traced is what an Envelope adds to its message's object.
type traced struct {
	TraceID *string `json:"trace_id,omitzero"`
}

// traceKey is the name of traced's member.
const traceKey = "trace_id"

// newCodec makes the codec of a union from its messages by name. The messages' types are compiled once, here.
func newCodec[M any](union, tag string, messages map[string]M) *Codec[M] {
	c := &Codec[M]{union: union, tag: tag, names: make(map[reflect.Type]string), types: make(map[string]messageType)}
	for name, message := range messages {
		t := reflect.TypeOf(message)
		c.names[t] = name
		c.types[name] = messageType{Type: t, decode: compileStruct(t)}
	}
	return c
}

// Name is the name of the message; "" if it is none of the union's.
func (c *Codec[M]) Name(message M) string { return c.names[reflect.TypeOf(message)] }

// Prepare does now what the first encoding of each message would have to do.
func (c *Codec[M]) Prepare() error {
	for t := range c.names {
		if _, err := c.Encode(reflect.Zero(t).Interface().(M)); err != nil {
			return err
		}
	}
	return nil
}

// Encode returns the message's JSON, the tag first. It fails if a text is not valid UTF-8.
func (c *Codec[M]) Encode(message M) ([]byte, error) {
	name := c.Name(message)
	if name == "" {
		return nil, fmt.Errorf("encode %s: %T is none: %w", c.union, message, errdefs.ErrInvalidArgument)
	}
	body, err := json.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("encode %s %q: %w: %w", c.union, name, err, errdefs.ErrInvalidArgument)
	}
	return prepend(fmt.Sprintf("{%q:%q", c.tag, name), body), nil
}

// Decode reads the JSON of exactly one message.
func (c *Codec[M]) Decode(data []byte) (M, error) {
	message, _, err := c.decode(data)
	if err != nil {
		return message, fmt.Errorf("decode %s: %w: %w", c.union, err, errdefs.ErrInvalidArgument)
	}
	return message, nil
}

// EncodeEnvelope returns the JSON of the message with the trace id, if there is one, in front.
func (c *Codec[M]) EncodeEnvelope(e Envelope[M]) ([]byte, error) {
	body, err := c.Encode(e.Body)
	if err != nil || e.TraceID == nil {
		return body, err
	}
	head, err := json.Marshal(traced{e.TraceID})
	if err != nil {
		return nil, fmt.Errorf("encode trace id: %w", err)
	}
	return prepend(string(head[:len(head)-1]), body), nil
}

// DecodeEnvelope reads the JSON of exactly one message with or without a trace id.
func (c *Codec[M]) DecodeEnvelope(data []byte) (Envelope[M], error) {
	body, found, err := c.decode(data)
	if err == nil {
		err = found.badTrace
	}
	if err != nil {
		return Envelope[M]{}, fmt.Errorf("decode %s: %w: %w", c.union, err, errdefs.ErrInvalidArgument)
	}
	return Envelope[M]{TraceID: found.trace, Body: body}, nil
}

// prepend puts the beginning of an object before the members of another.
func prepend(head string, object []byte) []byte {
	if string(object) == "{}" {
		return []byte(head + "}")
	}
	joined := make([]byte, 0, len(head)+len(object))
	joined = append(joined, head...)
	joined = append(joined, ',')
	return append(joined, object[1:]...)
}

// found is what a message's text says of itself.
type found struct {
	name     string
	tagged   bool    // it has a name
	bare     bool    // it is an array of its name alone, as a message without fields may be
	trace    *string // of an envelope
	badTrace error   // an envelope's trace id is none
}

func (c *Codec[M]) decode(data []byte) (message M, f found, err error) {
	if f, err = c.find(data); err != nil {
		return message, f, err
	}
	t, ok := c.types[f.name]
	if !ok {
		return message, f, fmt.Errorf("unknown %s %q", c.tag, clip(f.name))
	}
	value := reflect.New(t.Type).Elem()
	switch {
	case !f.bare:
		err = decodeWhole(data, t.decode, value)
	case t.NumField() > 0:
		err = fmt.Errorf("%q is an array, want an object", f.name)
	}
	if err != nil {
		return message, f, err
	}
	return value.Interface().(M), f, nil
}

// find reads the whole text, which checks it, and finds the message's name.
func (c *Codec[M]) find(data []byte) (f found, err error) {
	dec := newDecoder(data)
	switch dec.PeekKind() {
	case '{':
		err = c.findMembers(dec, &f)
	case '[':
		f.bare = true
		f.name, err = readBare(dec)
	default:
		if _, err = dec.ReadToken(); err == nil {
			err = fmt.Errorf("want an object")
		}
	}
	if err != nil {
		return f, noEOF(err)
	}
	return f, atEnd(dec)
}

func (c *Codec[M]) findMembers(dec *jsontext.Decoder, f *found) error {
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != '}' {
		key, err := dec.ReadToken()
		if err != nil {
			return err
		}
		switch key.String() {
		case c.tag:
			if f.name, err = readString(dec); err != nil {
				return fmt.Errorf("%s: %w", c.tag, err)
			}
			f.tagged = true
		case traceKey:
			if err := f.readTrace(dec); err != nil {
				return err
			}
		default:
			if err := dec.SkipValue(); err != nil {
				return err
			}
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if !f.tagged {
		return fmt.Errorf("%s is missing", c.tag)
	}
	return nil
}

// readTrace reads a trace id. That it is none counts only in an envelope; that it is no JSON counts always.
func (f *found) readTrace(dec *jsontext.Decoder) error {
	switch dec.PeekKind() {
	case '"':
		token, err := dec.ReadToken()
		if err == nil {
			text := token.String()
			f.trace = &text
		}
		return err
	case 'n':
	default:
		f.badTrace = fmt.Errorf("%s is not a string", traceKey)
	}
	return dec.SkipValue()
}

func readBare(dec *jsontext.Decoder) (string, error) {
	if _, err := dec.ReadToken(); err != nil {
		return "", err
	}
	name, err := readString(dec)
	if err != nil {
		return "", err
	}
	if end, err := dec.ReadToken(); err != nil || end.Kind() != ']' {
		return "", fmt.Errorf("array of more than a name, want an object")
	}
	return name, nil
}

// decodeWhole decodes a text that is one value and nothing else.
func decodeWhole(data []byte, decode decodeFunc, v reflect.Value) error {
	dec := newDecoder(data)
	if err := decode(dec, v); err != nil {
		return noEOF(err)
	}
	return atEnd(dec)
}

func atEnd(dec *jsontext.Decoder) error {
	if _, err := dec.ReadToken(); err != io.EOF {
		return errors.New("want nothing after the message")
	}
	return nil
}

func newDecoder(data []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(data))
}
