package streamsidecar

import (
	"context"
	"io"
	"net"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Guest is what a sandbox's byte streams are joined to. See client.Session.
type Guest interface {
	OpenStream(ctx context.Context, token protocol.Token) (net.Conn, error)
	DialPort(ctx context.Context, port uint16) (protocol.HalfCloser, error)
	DialUnix(ctx context.Context, path string) (protocol.HalfCloser, error)
	OpenListeners(ctx context.Context) (io.ReadCloser, error)
	DialContainerd(ctx context.Context) (protocol.HalfCloser, error)
	OpenFIFO(ctx context.Context) (io.ReadCloser, error)
}

// OfGuest are the byte streams of a sandbox.
func OfGuest(guest Guest) Services {
	return Services{
		protocol.StreamContainerd: unanswered(func(ctx context.Context, _ protocol.Preamble) (protocol.HalfCloser, error) {
			return guest.DialContainerd(ctx)
		}, join),
		protocol.StreamOutput: unanswered(func(ctx context.Context, _ protocol.Preamble) (io.ReadCloser, error) {
			return guest.OpenFIFO(ctx)
		}, pour),
		// Who sends input ends it by the end of his direction; who reads output keeps his open for as long as he reads.
		protocol.StreamProcess: answered(func(ctx context.Context, p protocol.Preamble) (net.Conn, error) {
			return guest.OpenStream(ctx, p.Token)
		}, exchange),
		protocol.StreamTCP: answered(func(ctx context.Context, p protocol.Preamble) (protocol.HalfCloser, error) {
			return guest.DialPort(ctx, p.Port)
		}, join),
		protocol.StreamUnix: answered(func(ctx context.Context, p protocol.Preamble) (protocol.HalfCloser, error) {
			return guest.DialUnix(ctx, p.Path)
		}, join),
		protocol.StreamListeners: answered(func(ctx context.Context, _ protocol.Preamble) (io.ReadCloser, error) {
			return guest.OpenListeners(ctx)
		}, pour),
	}
}
