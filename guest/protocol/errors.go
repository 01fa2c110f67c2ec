package protocol

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
)

// Code says what kind of error an Error is.
type Code string

// The codes.
const (
	CodeInvalidRequest     Code = "INVALID_REQUEST"
	CodeNotFound           Code = "NOT_FOUND"
	CodeAlreadyExists      Code = "ALREADY_EXISTS"
	CodeFailedPrecondition Code = "FAILED_PRECONDITION"
	CodeNotImplemented     Code = "NOT_IMPLEMENTED"
	CodeUnauthenticated    Code = "UNAUTHENTICATED"
	CodePermissionDenied   Code = "PERMISSION_DENIED"
	CodeCancelled          Code = "CANCELLED"
	CodeInternal           Code = "INTERNAL_ERROR"
	CodeMessageTooLarge    Code = "MESSAGE_TOO_LARGE"
	CodeSerialization      Code = "SERIALIZATION_ERROR"

	CodePullFailed    Code = "PULL_FAILED"
	CodeQueryFailed   Code = "QUERY_FAILED"
	CodeRunFailed     Code = "RUN_FAILED"
	CodeExecFailed    Code = "EXEC_FAILED"
	CodeSpawnFailed   Code = "SPAWN_FAILED"
	CodeMountFailed   Code = "MOUNT_FAILED"
	CodeFileIOFailed  Code = "FILE_IO_FAILED"
	CodeOverlayFailed Code = "OVERLAY_FAILED"
	CodeCleanupFailed Code = "CLEANUP_FAILED"
	CodeFormatFailed  Code = "FORMAT_FAILED"
	CodeStatusFailed  Code = "STATUS_FAILED"
	CodeListFailed    Code = "LIST_FAILED"
	CodeGCFailed      Code = "GC_FAILED"
	CodeCreateFailed  Code = "CREATE_FAILED"
	CodeStartFailed   Code = "START_FAILED"
	CodeStopFailed    Code = "STOP_FAILED"
	CodeDeleteFailed  Code = "DELETE_FAILED"
	CodeExportFailed  Code = "EXPORT_FAILED"
	CodeWaitFailed    Code = "WAIT_FAILED"
)

// kinds pairs codes with the errors that they stand for. An error is given the first code whose kind it is; a code that is not
// here stands for an internal error.
var kinds = []struct {
	code Code
	kind error
}{
	{CodeNotFound, errdefs.ErrNotFound},
	{CodeAlreadyExists, errdefs.ErrAlreadyExists},
	{CodeFailedPrecondition, errdefs.ErrFailedPrecondition},
	{CodeNotImplemented, errdefs.ErrNotImplemented},
	{CodeUnauthenticated, errdefs.ErrUnauthenticated},
	{CodePermissionDenied, errdefs.ErrPermissionDenied},
	{CodeCancelled, context.Canceled},
	{CodeMessageTooLarge, errdefs.ErrResourceExhausted},
	{CodeInvalidRequest, errdefs.ErrInvalidArgument},
	{CodeInternal, errdefs.ErrInternal},
}

// maxErrorMessage is the most bytes of text in an Error: enough for a cause and its causes, and with its JSON escapes still below
// MaxPayloadBeforeAuth unless the text is mostly control characters, which no error of ours is.
const maxErrorMessage = 2 << 10

// Error is the payload of a response that has the error flag. It is an error of the kind that its code stands for (errdefs).
type Error struct {
	Message string `json:"msg"`
	Code    Code   `json:"code,omitzero" wire:"default"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind of error that the code stands for.
func (e *Error) Unwrap() error {
	for _, k := range kinds {
		if k.code == e.Code {
			return k.kind
		}
	}
	return errdefs.ErrInternal
}

// NewError turns any error into an Error that can be sent: one that is or wraps an Error keeps its code, the others have the
// code of their kind.
func NewError(err error) *Error {
	message := truncate(err.Error(), maxErrorMessage)
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{Message: message, Code: e.Code}
	}
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			return &Error{Message: message, Code: k.code}
		}
	}
	return &Error{Message: message, Code: CodeInternal}
}

var decodeErrorFields = compileStruct(reflect.TypeFor[Error]())

// decodeError reads the payload of an error response.
func decodeError(payload []byte) (*Error, error) {
	var e Error
	if err := decodeWhole(payload, decodeErrorFields, reflect.ValueOf(&e).Elem()); err != nil {
		return nil, fmt.Errorf("decode error response: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	e.Message = truncate(e.Message, maxErrorMessage) // longer than NewError makes any
	return &e, nil
}

func (e *Error) encode() ([]byte, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode error response: %w", err)
	}
	return payload, nil
}
