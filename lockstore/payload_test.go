package lockstore

import (
	"strings"
	"testing"
)

func TestParsePayload(t *testing.T) {
	for text, want := range map[string]Payload{
		"": {Class: Empty}, " \n": {Class: Empty}, "0": {Class: Empty}, "0\n": {Class: Empty},
		"1": {Class: Naming, PID: 1}, "4711\n": {Class: Naming, PID: 4711}, "      4711\n": {Class: Naming, PID: 4711},
		"4711\nhost\n": {Class: Naming, PID: 4711}, "4194304": {Class: Naming, PID: 4194304},
		"4194305": {Class: Data}, "9223372036854775808": {Class: Data}, "-1": {Class: Data}, "+1": {Class: Data}, "007": {Class: Data},
		"12 34": {Class: Data}, "1.5": {Class: Data}, "0x10": {Class: Data}, "version 4": {Class: Data}, "\x001": {Class: Data}, "1\xff": {Class: Data},
		`{"pid":4711}`: {Class: Naming, PID: 4711},
		` {"pid": 4711, "createdAt": "x"} ` + "\n":   {Class: Naming, PID: 4711, BadCreatedAt: true},
		`{"pid":4711,"starttime":99,"bootId":"ABC"}`: {Class: Naming, PID: 4711, StartTime: 99, BootID: "abc"},
		`{"pid":4711,"starttime":-1,"bootId":7}`:     {Class: Naming, PID: 4711},
		`{"pid":1,"pid":2}`:                          {Class: Naming, PID: 2},
		`{"pid":0}`:                                  {Class: Naming}, `{"pid":-1}`: {Class: Naming}, `{"pid":9223372036854775808}`: {Class: Naming}, `{"pid":1.5}`: {Class: Naming},
		`{"pid":7,"createdAt":"2026-01-01T00:00:00Z","hostname":"box"}`: {Class: Naming, PID: 7, Host: "box"},
		`{"pid":0,"createdAt":"yesterday"}`:                             {Class: Naming, BadCreatedAt: true},
		`{"createdAt":"2026-01-01T00:00:00Z"}`:                          {Class: Naming},
		`{"createdAt":"2026-01-01T00:00:00Z","packages":{"a":"1"}}`:     {Class: Data},
		"box:4711": {Class: Naming, Host: "box", PID: 4711, Weak: true}, "box/f0000000:4711\n": {Class: Naming, Host: "box", PID: 4711, Weak: true},
		"127.0.1.1:+4711":                    {Class: Naming, Host: "127.0.1.1", PID: 4711, Weak: true},
		"my-box.example.org-4711":            {Class: Naming, Host: "my-box.example.org", PID: 4711, Weak: true},
		"me@box.example.org.4711:1764000000": {Class: Naming, Host: "box.example.org", PID: 4711, Weak: true},
		"me@box.4711":                        {Class: Naming, Host: "box", PID: 4711, Weak: true},
		"box:0":                              {Class: Data}, "box-99999999": {Class: Data}, "box 4711": {Class: Data}, "../x-1": {Class: Data}, "two\nlines-12": {Class: Data},
		`{"pid":"4711"}`: {Class: Data}, `{"PID":4711}`: {Class: Data}, `{"pid":null}`: {Class: Data}, `{"pid":[1]}`: {Class: Data},
		`{"pid":4711`: {Class: Data}, `{"pid":4711} x`: {Class: Data}, `[4711]`: {Class: Data}, `{}`: {Class: Data},
		`{"nodes":{"pid":4711}}`:                                  {Class: Data},
		"4711\n" + strings.Repeat("x", maxBareNumber):             {Class: Data},
		`{"pid":1,"x":"` + strings.Repeat("x", maxPayload) + `"}`: {Class: Data},
		strings.Repeat("[", maxPayload):                           {Class: Data},
	} {
		if got := ParsePayload([]byte(text)); got != want {
			t.Errorf("%.60q: %+v, want %+v", text, got, want)
		}
	}
}

func FuzzParsePayload(f *testing.F) {
	for _, text := range []string{
		"", "1\n", `{"pid":1}`, `{"pid":0,"createdAt":"x","bootId":"A","starttime":9}`, "box/f0:12", "me@box.example.12:99", "box-12", "127.0.0.1:+7", "/a/x.lock|box|12|99",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p := ParsePayload(text)
		if p.PID < 0 || p.PID > maxPID || p.Class != Naming && p != (Payload{Class: p.Class}) || len(text) > maxPayload && p.Class != Data || p.Weak && p.PID == 0 {
			t.Errorf("%q: %+v", text, p)
		}
	})
}
