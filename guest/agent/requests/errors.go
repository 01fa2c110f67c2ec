package requests

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// failed gives an error a code, unless it has one of its own, or is of a kind that has one.
func failed(code protocol.Code, err error) error {
	if _, has := errors.AsType[*protocol.Error](err); has || protocol.NewError(err).Code != protocol.CodeInternal {
		return err
	}
	return &protocol.Error{Message: err.Error(), Code: code}
}

// invalid is the error of a request that cannot be served as it stands.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func errorResponse(err error) protocol.ErrorResponse {
	e := protocol.NewError(err)
	code := string(e.Code)
	return protocol.ErrorResponse{Message: e.Message, Code: &code}
}
