package protocol

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// redacted is what a secret shows when it is printed.
const redacted = "[secret]"

// Secret is text that must not be seen in a log: printing it does not reveal it, coding it as JSON does.
type Secret string

// String reveals nothing.
func (Secret) String() string { return redacted }

// GoString reveals nothing.
func (Secret) GoString() string { return redacted }

// Token names a byte stream, and is the right to open it. In JSON it is 64 hexadecimal digits.
type Token [32]byte

// NewToken returns a random Token.
func NewToken() Token {
	var t Token
	_, _ = rand.Read(t[:]) // never fails: see crypto/rand
	return t
}

// String reveals nothing.
func (Token) String() string { return redacted }

// GoString reveals nothing.
func (Token) GoString() string { return redacted }

// MarshalText returns the token's 64 hexadecimal digits.
func (t Token) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, t[:]), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (t *Token) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(t)) {
		return fmt.Errorf("token of %d characters, want %d", len(text), hex.EncodedLen(len(t)))
	}
	if _, err := hex.Decode(t[:], text); err != nil {
		return fmt.Errorf("token: not hexadecimal") // without the cause, which would show a part of it
	}
	return nil
}
