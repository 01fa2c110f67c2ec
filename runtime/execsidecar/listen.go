package execsidecar

import (
	"context"
	"log/slog"
	"net"

	"github.com/limpet-run/limpet/runtime/door"
)

// Listen runs commands of clients on this machine until the context ends or a client asks it to stop; then it ends those that run. Clients
// may be of the same user or root. The socket is removed in the end; one that a server left which is gone is replaced.
func Listen(ctx context.Context, path string, logger *slog.Logger) error {
	if err := door.Clear("unixpacket", path); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d, err := door.Open("unixpacket", path, logger, func(ctx context.Context, client *net.UnixConn) {
		asked, err := Serve(ctx, client, StartLocal, logger)
		if err != nil {
			logger.Warn("client refused", "error", err)
		}
		if asked {
			stop()
		}
	})
	if err != nil {
		return err
	}
	logger.Info("commands are run for who connects", "socket", path)
	<-ctx.Done()
	d.Close()
	return nil
}
