package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/limpet-run/limpet/guest/protocol"
)

// progressPeriod is how often a layer tells how far it is, unless it is done: a bar moves smoothly enough.
const progressPeriod = 200 * time.Millisecond

// Pull fetches an image, and tells how far it is by calling progress. The image is there once Pull returns without an error, and not
// before; layers that are whole stay when it fails, so that the next pull need not fetch them again.
func (s *Store) Pull(
	ctx context.Context, request protocol.PullRequest, progress func(protocol.ProgressResponse),
) (protocol.ImageInfo, error) {
	none := protocol.ImageInfo{}
	ref, err := parseReference(request.Image, s.Share)
	if err != nil {
		return none, err
	}
	platform, err := parsePlatform(request.OCIPlatform, runtime.GOARCH)
	if err != nil {
		return none, err
	}
	progress(protocol.ProgressResponse{Message: "look up " + ref.text})
	image, err := s.resolve(ctx, ref, platform, request.Auth)
	if err != nil {
		return none, s.explain(ctx, ref, 0, 0, err)
	}
	chain := chainIDs(image.layers)
	var held []io.Closer
	defer func() {
		for _, layer := range held {
			layer.Close()
		}
	}()
	for i, layer := range image.layers {
		meter := &meter{report: progress, layer: layer.digest, of: fmt.Sprintf("layer %d of %d", i+1, len(chain)), size: layer.size}
		lock, err := s.holdLayer(chain[i])
		if errdefs.IsNotFound(err) {
			lock, err = s.fetch(ctx, layer, chain[:i+1], meter)
		}
		if err != nil {
			return none, s.explain(ctx, ref, i, len(chain), err)
		}
		held = append(held, lock)
		meter.done()
	}
	info := image.info(ref.text)
	if err := s.keep(record{Info: info, Chain: chain}); err != nil {
		return none, s.explain(ctx, ref, len(chain), len(chain), err)
	}
	return info, nil
}

// explain says of an error what was done so far.
func (s *Store) explain(ctx context.Context, ref reference, done, layers int, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		err = fmt.Errorf("cancelled: %w", err)
	}
	text := "pull " + ref.text
	if done > 0 {
		text += fmt.Sprintf(" (%d of %d layers are here and stay)", done, layers)
	}
	return fmt.Errorf("%s: %w", text, err)
}

// chainIDs names each layer together with those below it.
func chainIDs(layers []blob) []string {
	var ids []digest.Digest
	for _, layer := range layers {
		ids = append(ids, digest.Digest(layer.diffID))
	}
	var names []string
	for _, id := range identity.ChainIDs(ids) {
		names = append(names, id.String())
	}
	return names
}

// fetch unpacks a layer, the last one of the chain, and holds it.
func (s *Store) fetch(ctx context.Context, layer blob, chain []string, meter *meter) (_ *os.File, err error) {
	staged, lock, err := s.stage()
	if err != nil {
		return nil, err
	}
	defer func() { // what was moved is not there any more
		err = errors.Join(err, os.RemoveAll(staged))
		lock.Close()
	}()
	reader, err := layer.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer.digest, registryError(err))
	}
	defer reader.Close()
	meter.reader = reader
	last := len(chain) - 1
	var parents []string
	for _, below := range slices.Backward(chain[:last]) {
		parents = append(parents, s.layerFiles(below))
	}
	files := filepath.Join(staged, filesDir)
	if err := os.Mkdir(files, 0o755); err != nil {
		return nil, err
	}
	if err := unpack(ctx, meter, layer.diffID, files, parents); err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer.digest, err)
	}
	return s.adopt(staged, lock, chain[last])
}

// meter counts what is read of a layer and reports it.
type meter struct {
	reader io.Reader
	report func(protocol.ProgressResponse)
	layer  string
	of     string
	size   int64 // bytes
	read   int64
	last   time.Time
}

// Read implements io.Reader.
func (m *meter) Read(buffer []byte) (int, error) {
	n, err := m.reader.Read(buffer)
	m.read += int64(n)
	if time.Since(m.last) >= progressPeriod && m.read < m.size {
		m.last = time.Now()
		m.tell(uint8(m.read * 100 / m.size))
	}
	return n, err
}

func (m *meter) done() { m.tell(100) }

func (m *meter) tell(percent uint8) {
	m.report(protocol.ProgressResponse{Message: m.of, Percent: &percent, Layer: &m.layer})
}
