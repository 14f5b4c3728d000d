package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"latchfs/fs/control"
)

// TestJSONIsDocumented: latchfs-json(5) names every field there is, and no other.
func TestJSONIsDocumented(t *testing.T) {
	text, err := os.ReadFile("package/json.md")
	if err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]bool)
	for _, of := range []any{whyCase{}, checked{}, versionInfo{}, control.LockInfo{}, control.EventInfo{}, control.Status{}, control.ReclaimedInfo{}} {
		addFields(fields, reflect.TypeOf(of))
	}
	for _, name := range []string{"removed", "error"} { // scanned, which is for Linux
		fields[name] = true
	}
	documented := make(map[string]bool)
	for _, word := range regexp.MustCompile(`\*\*([a-z_]+)\*\*`).FindAllStringSubmatch(string(text), -1) {
		documented[word[1]] = true
	}
	for _, command := range []string{"latchfs", "why", "scan", "check"} {
		delete(documented, command)
	}
	for name := range fields {
		if !documented[name] {
			t.Errorf("%s is not documented", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("there is no %s", name)
	}
}

// addFields adds the names that a type's fields have as JSON.
func addFields(fields map[string]bool, of reflect.Type) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
		return
	}
	for i := range of.NumField() {
		field := of.Field(i)
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			fields[name] = true
		}
		addFields(fields, field.Type)
	}
}
