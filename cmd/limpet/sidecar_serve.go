package main

import (
	"fmt"
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime/streamsidecar"
)

func sidecarServeCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "serve byte streams for a containerd of this host, until it is interrupted",
		Description: "A connection begins with the 13 bytes \"danger noodle\" and a kind. Kind 0: it is then one with containerd's socket.\n" +
			"Kind 1: it is told the path of a FIFO (a byte of length, then the path), then what is written to that, until its writers\n" +
			"are gone. All else is hung up on without an answer. Who is connected has the power of containerd, which is root's: the\n" +
			"socket lets in root and the user that serves; over TCP every user of this host comes in.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "/run/limpet-sidecar/stream.sock", Usage: "`SOCKET` that is made and listened on"},
			&cli.StringFlag{Name: "tcp", Usage: "also listen on `HOST:PORT`, for instance 127.0.0.1:8000, of loopback (default: do not)"},
			&cli.BoolFlag{Name: "tcp-exposed", Usage: "let --tcp be an address that other hosts reach: there is no encryption and no password"},
			&cli.StringFlag{Name: "containerd", Value: "/run/containerd/containerd.sock", Usage: "containerd's `SOCKET`"},
			&cli.StringFlag{Name: "output", Value: "/run/limpet-sidecar/output",
				Usage: "`DIR` for FIFOs and nothing else; it is removed in the end"},
		},
		OnUsageError: onUsageError,
		Before:       arguments(0, 0),
		Action:       serveStreams,
	}
}

func serveStreams(c *cli.Context) error {
	options := streamsidecar.Options{
		Containerd: c.String("containerd"), Socket: c.String("listen"), Output: c.String("output"),
		TCP: c.String("tcp"), Exposed: c.Bool("tcp-exposed"),
		Logger: slog.New(slog.NewTextHandler(c.App.ErrWriter, nil)),
	}
	return streamsidecar.Run(c.Context, options, func(addresses ...string) {
		for _, address := range addresses {
			fmt.Fprintln(c.App.Writer, "serving on", address)
		}
	})
}
