// Command limpet-images serves one machine request about images in a guest: the agent starts it, gives it the request on its standard
// input and passes on what it writes to its standard output. SIGTERM cancels what it does; it logs to its standard error.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/images"
	"github.com/limpet-run/limpet/guest/agent/machine"
	"github.com/limpet-run/limpet/guest/protocol"
)

func main() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(logger); err != nil {
		logger.Error("request about images", "error", err)
		os.Exit(1)
	}
}

func run(logger *slog.Logger) error {
	// A guest that runs out of memory is to lose this before anything that it runs for somebody.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return fmt.Errorf("prefer this program when memory runs out: %w", err)
	}
	own, err := os.Executable()
	if err != nil {
		return err
	}
	// What is cancelled is to say so: only a second signal ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	return images.Serve(ctx, images.Options{
		Root: protocol.ImagesDir, Share: protocol.ShareDir, FindDisk: machine.FindDisk,
		Mkfs: filepath.Join(filepath.Dir(own), "mke2fs"), Logger: logger,
	}, os.Stdin, os.Stdout)
}
