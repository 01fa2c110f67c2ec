package machine

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	var l limit
	now := time.Unix(1000, 0)
	for i := range logBurst {
		if ok, dropped := l.take(now); !ok || dropped != 0 {
			t.Fatalf("line %d: %v, %d dropped", i, ok, dropped)
		}
	}
	for range 3 {
		if ok, _ := l.take(now.Add(logPeriod - 1)); ok {
			t.Error("a line too many")
		}
	}
	if ok, dropped := l.take(now.Add(logPeriod)); !ok || dropped != 3 {
		t.Errorf("after the period: %v, %d dropped, want 3", ok, dropped)
	}
	if ok, dropped := l.take(now.Add(logPeriod)); !ok || dropped != 0 {
		t.Errorf("then: %v, %d dropped", ok, dropped)
	}
}

func TestLoggerIsLimitedAsAWhole(t *testing.T) {
	var console bytes.Buffer
	logger := NewLogger(&console)
	for range logBurst {
		logger.With("a", 1).Info("one")
		logger.WithGroup("g").Info("other")
	}
	if n := strings.Count(console.String(), "\n"); n != logBurst {
		t.Errorf("%d lines, want %d", n, logBurst)
	}
}

func TestReseedRefusesTooMuch(t *testing.T) {
	if err := Reseed(make([]byte, MaxEntropy+1)); err == nil {
		t.Error("took more than the maximum")
	}
}
