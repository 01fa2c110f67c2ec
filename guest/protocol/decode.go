package protocol

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// decodeFunc reads the next JSON value into v.
type decodeFunc func(dec *jsontext.Decoder, v reflect.Value) error

// field is how one field of a message is decoded.
type field struct {
	index    int
	required bool
	option   bool
	decode   decodeFunc
}

// compile makes the decoder of a type. It panics for a type that no message may have: messages are compiled when the program
// starts, so that every test would see it.
func compile(t reflect.Type) decodeFunc {
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		return decodeRaw
	case t == reflect.TypeFor[[]byte]():
		return decodeBytes
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return decodeText
	case t.Implements(reflect.TypeFor[tuple]()):
		return compileTuple(t)
	}
	switch t.Kind() {
	case reflect.Struct:
		return compileStruct(t)
	case reflect.Slice:
		return compileSlice(t)
	case reflect.Pointer:
		return compilePointer(t)
	case reflect.String:
		return decodeString
	case reflect.Bool:
		return decodeBool
	case reflect.Int32, reflect.Int64:
		return decodeInt
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return decodeUint
	}
	panic(fmt.Sprintf("protocol: a message cannot have a %v", t))
}

func compileStruct(t reflect.Type) decodeFunc {
	fields := make(map[string]field, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		rule, ruled := f.Tag.Lookup("wire")
		option := rule == "option"
		if name == "" || ruled && !option && rule != "default" || option != (f.Type.Kind() == reflect.Pointer) && !isRaw(f.Type) {
			panic(fmt.Sprintf("protocol: %v: field %s: tags %q do not fit", t, f.Name, f.Tag))
		}
		fields[name] = field{index: i, required: !ruled, option: option, decode: compile(f.Type)}
	}
	return func(dec *jsontext.Decoder, v reflect.Value) error { return decodeStruct(dec, v, fields) }
}

func isRaw(t reflect.Type) bool { return t == reflect.TypeFor[json.RawMessage]() }

func decodeStruct(dec *jsontext.Decoder, v reflect.Value, fields map[string]field) error {
	if err := begin(dec, '{', "an object"); err != nil {
		return err
	}
	var seen uint64 // a bit for each field; no message has as many as 64
	for dec.PeekKind() != '}' {
		key, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := key.String()
		f, ok := fields[name]
		switch {
		case !ok:
			err = dec.SkipValue()
		case f.option && dec.PeekKind() == 'n':
			_, err = dec.ReadToken()
		default:
			err = f.decode(dec, v.Field(f.index))
			seen |= 1 << f.index
		}
		if err != nil {
			return fmt.Errorf("%s: %w", clip(name), err)
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for name, f := range fields {
		if f.required && seen&(1<<f.index) == 0 {
			return fmt.Errorf("%s is missing", name)
		}
	}
	return nil
}

func compileTuple(t reflect.Type) decodeFunc {
	elements := make([]decodeFunc, t.NumField())
	for i := range elements {
		elements[i] = compile(t.Field(i).Type)
	}
	return func(dec *jsontext.Decoder, v reflect.Value) error {
		if err := begin(dec, '[', "an array"); err != nil {
			return err
		}
		for i, decode := range elements {
			if err := decode(dec, v.Field(i)); err != nil {
				return err
			}
		}
		if dec.PeekKind() != ']' {
			return fmt.Errorf("array is longer than %d", len(elements))
		}
		_, err := dec.ReadToken()
		return err
	}
}

func compileSlice(t reflect.Type) decodeFunc {
	element := compile(t.Elem())
	return func(dec *jsontext.Decoder, v reflect.Value) error {
		if err := begin(dec, '[', "an array"); err != nil {
			return err
		}
		v.Set(reflect.MakeSlice(t, 0, 0))
		for i := 0; dec.PeekKind() != ']'; i++ {
			item := reflect.New(t.Elem()).Elem()
			if err := element(dec, item); err != nil {
				return fmt.Errorf("%d: %w", i, err)
			}
			v.Set(reflect.Append(v, item))
		}
		_, err := dec.ReadToken()
		return err
	}
}

func compilePointer(t reflect.Type) decodeFunc {
	element := compile(t.Elem())
	return func(dec *jsontext.Decoder, v reflect.Value) error {
		v.Set(reflect.New(t.Elem()))
		return element(dec, v.Elem())
	}
}

func decodeRaw(dec *jsontext.Decoder, v reflect.Value) error {
	if dec.PeekKind() == 'n' {
		return errors.New("is null")
	}
	raw, err := dec.ReadValue()
	if err != nil {
		return err
	}
	v.SetBytes(append([]byte(nil), raw...))
	return nil
}

// decodeBytes reads base64 with padding. The standard decoder skips line ends: then there is less than the text's length makes.
func decodeBytes(dec *jsontext.Decoder, v reflect.Value) error {
	text, err := readString(dec)
	if err != nil {
		return err
	}
	encoding := base64.StdEncoding.Strict()
	data, err := encoding.DecodeString(text)
	if err != nil {
		return err
	}
	if encoding.EncodedLen(len(data)) != len(text) {
		return errors.New("base64 with line ends")
	}
	v.SetBytes(data)
	return nil
}

func decodeText(dec *jsontext.Decoder, v reflect.Value) error {
	text, err := readString(dec)
	if err != nil {
		return err
	}
	return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
}

func decodeString(dec *jsontext.Decoder, v reflect.Value) error {
	text, err := readString(dec)
	v.SetString(text)
	return err
}

func decodeBool(dec *jsontext.Decoder, v reflect.Value) error {
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != 't' && token.Kind() != 'f' {
		return wrongKind(token, "a bool")
	}
	v.SetBool(token.Bool())
	return nil
}

func decodeInt(dec *jsontext.Decoder, v reflect.Value) error {
	text, err := readNumber(dec)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(text, 10, v.Type().Bits())
	if err != nil {
		return wrongNumber(err, v)
	}
	v.SetInt(n)
	return nil
}

func decodeUint(dec *jsontext.Decoder, v reflect.Value) error {
	text, err := readNumber(dec)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(text, 10, v.Type().Bits())
	if err != nil {
		return wrongNumber(err, v)
	}
	v.SetUint(n)
	return nil
}

func wrongNumber(err error, v reflect.Value) error {
	return fmt.Errorf("want %v: %w", v.Kind(), errors.Unwrap(err)) // without the text, whose length is the sender's choice
}

// begin reads the token that opens an object or array.
func begin(dec *jsontext.Decoder, kind jsontext.Kind, want string) error {
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != kind {
		return wrongKind(token, want)
	}
	return nil
}

func readString(dec *jsontext.Decoder) (string, error) {
	token, err := dec.ReadToken()
	if err != nil {
		return "", err
	}
	if token.Kind() != '"' {
		return "", wrongKind(token, "a string")
	}
	return token.String(), nil
}

// readNumber reads a number as it is spelled. "-0" is no integer: it is how a negative zero is spelled.
func readNumber(dec *jsontext.Decoder) (string, error) {
	token, err := dec.ReadToken()
	if err != nil {
		return "", err
	}
	if token.Kind() != '0' {
		return "", wrongKind(token, "an integer")
	}
	text := token.String()
	if text == "-0" {
		return "", errors.New("is -0, want an integer")
	}
	return text, nil
}

func wrongKind(token jsontext.Token, want string) error {
	return fmt.Errorf("is %v, want %s", token.Kind(), want)
}

// clip shortens text that the other side chose, for an error.
func clip(text string) string { return truncate(text, 64) }

// truncate makes valid UTF-8 of at most size bytes, and dots, of text.
func truncate(text string, size int) string {
	if len(text) <= size {
		return strings.ToValidUTF8(text, "?")
	}
	return strings.ToValidUTF8(text[:size], "?") + "..."
}
