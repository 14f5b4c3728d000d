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
		` {"pid": 4711, "createdAt": "x"} ` + "\n":   {Class: Naming, PID: 4711},
		`{"pid":4711,"starttime":99,"bootId":"ABC"}`: {Class: Naming, PID: 4711, StartTime: 99, BootID: "abc"},
		`{"pid":4711,"starttime":-1,"bootId":7}`:     {Class: Naming, PID: 4711},
		`{"pid":1,"pid":2}`:                          {Class: Naming, PID: 2},
		`{"pid":0}`:                                  {Class: Naming}, `{"pid":-1}`: {Class: Naming}, `{"pid":9223372036854775808}`: {Class: Naming}, `{"pid":1.5}`: {Class: Naming},
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
	for _, text := range []string{"", "1\n", `{"pid":1}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p := ParsePayload(text)
		if p.PID < 0 || p.PID > maxPID || p.Class != Naming && p != (Payload{Class: p.Class}) || len(text) > maxPayload && p.Class != Data {
			t.Errorf("%q: %+v", text, p)
		}
	})
}
