package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/runtime"
)

const (
	web = `{"namespace": "default", "id": "web", "began": "2026-11-21T10:00:00Z", "parts": [
		{"name": "sandbox", "begin_ms": 0, "ms": 1234.5, "stages": [
			{"name": "state", "begin_ms": 0.1, "ms": 0.4}, {"name": "qemu", "begin_ms": 0.6, "ms": 80}]},
		{"name": "create", "begin_ms": 1240, "ms": 90.1, "stages": []}]}`
	otherWeb = `{"namespace": "test", "id": "web", "began": "2026-11-21T10:00:01Z"}`
)

func TestTrace(t *testing.T) {
	for _, test := range []struct {
		name    string
		records []string
		args    []string
		want    outcome
	}{
		{"none", nil, nil, outcome{0, []string{"NAMESPACE SANDBOX BEGAN SHIM MS SANDBOX MS CREATE MS START MS EXEC MS"}, nil}},
		{"list", []string{otherWeb, web}, nil, outcome{0, []string{" - 1234.5 90.1 - -", "test web ", " - - - - -"}, nil}},
		{"list of a namespace", []string{otherWeb, web}, []string{"--namespace", "default"}, outcome{0, []string{"default web"}, nil}},
		{"one", []string{web}, []string{"web"}, outcome{0, []string{
			"sandbox web of namespace default, booted, begun ", "FROM MS TOOK MS STAGE", "0.0 1234.5 sandbox", "0.1 0.4 state", "0.6 80.0 qemu 1154.1 (other) 1234.5 5.5 (elsewhere) 1240.0 90.1 create",
		}, nil}},
		{"chosen", []string{otherWeb, web}, []string{"--namespace", "default", "web"}, outcome{0, []string{"web of namespace default"}, nil}},
		{"clone", []string{strings.Replace(web, "{", `{"template": "t1", `, 1)}, []string{"web"},
			outcome{0, []string{"sandbox web of namespace default, a clone of template t1, begun "}, nil}},
		{"beside a broken one", []string{web, "{"}, []string{"web"}, outcome{0, []string{"sandbox web"}, nil}},
		{"list with a broken one", []string{web, "{"}, nil, outcome{exitFailure, []string{"default web"}, []string{"read sandbox state"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			limpet(t, append([]string{"trace", "--config", stateOf(t, test.records...)}, test.args...)...).expect(t, test.want)
		})
	}
}

func TestTraceOfLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	const stopped = `time=2026-11-21T10:00:05Z level=INFO msg="sandbox stopped" namespace=default sandbox=`
	text := stopped + "web trace=" + strconv.Quote(web) + "\nsomething else\n" + stopped + "web trace=" + strconv.Quote(otherWeb) + "\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		args []string
		want outcome
	}{
		{"list", []string{log}, outcome{0, []string{"default web", " 1234.5 90.1 - -", "test web "}, nil}},
		{"list of a namespace", []string{log, "--namespace", "default"}, outcome{0, []string{"default web"}, nil}},
		{"the last", []string{log, "web"}, outcome{0, []string{"sandbox web of namespace test"}, nil}},
		{"chosen", []string{log, "--namespace", "default", "web"}, outcome{0, []string{"0.1 0.4 state"}, nil}},
		{"not in it", []string{log, "db"}, outcome{exitFailure, nil, []string{"no trace of a sandbox db"}}},
		{"no log", []string{log + "x"}, outcome{exitFailure, nil, []string{"no such file"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			limpet(t, append([]string{"trace", "--log"}, test.args...)...).expect(t, test.want)
		})
	}
}

func TestTraceJSON(t *testing.T) {
	var none, list []runtime.Trace
	var one runtime.Trace
	limpet(t, "trace", "--json", "--config", stateOf(t)).decode(t, &none)
	limpet(t, "trace", "--json", "--config", stateOf(t, web, otherWeb)).decode(t, &list)
	limpet(t, "trace", "--json", "--config", stateOf(t, web), "web").decode(t, &one)
	if none == nil || len(none) != 0 {
		t.Errorf("none: %+v", none)
	}
	if len(list) != 2 || len(list[0].Parts) != 2 || list[1].Namespace != "test" {
		t.Errorf("list: %+v", list)
	}
	if one.ID != "web" || len(one.Parts) != 2 || len(one.Parts[0].Stages) != 2 || one.Parts[0].Stages[1].MS != 80 {
		t.Errorf("one: %+v", one)
	}
}
