//go:build linux

package cli

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"latchfs/integration/harness"
)

// A document is a file for readers, in Markdown.
type document struct {
	name string // from the root of the repository
	text string // without the blocks of code
	code []string
}

// documents returns the documents that exist.
func documents(t *testing.T) (all []document) {
	t.Helper()
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md"} {
		paths, err := filepath.Glob(harness.RepoPath(pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			name, _ := filepath.Rel(harness.RepoPath(), path)
			all = append(all, readDocument(t, name))
		}
	}
	if len(all) == 0 {
		t.Fatal("there are no documents")
	}
	return all
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// readDocument separates the text of a document from its code: spans in backticks, and the lines of blocks. Of a
// block with language "console" only the lines with a prompt are commands; blocks in other languages than that of
// the shell are left out.
func readDocument(t *testing.T, name string) document {
	t.Helper()
	text, err := os.ReadFile(harness.RepoPath(name))
	if err != nil {
		t.Fatal(err)
	}
	d := document{name: name}
	inBlock, language := false, ""
	var prose strings.Builder
	for line := range strings.Lines(string(text)) {
		if after, fence := strings.CutPrefix(strings.TrimSpace(line), "```"); fence {
			inBlock, language = !inBlock, after
			continue
		}
		if !inBlock {
			prose.WriteString(line)
			continue
		}
		command, prompt := strings.CutPrefix(strings.TrimSpace(line), "$ ")
		if prompt || slices.Contains([]string{"", "sh", "bash", "shell"}, language) {
			d.code = append(d.code, command)
		}
	}
	d.text = prose.String()
	for _, match := range codeSpan.FindAllStringSubmatch(d.text, -1) {
		d.code = append(d.code, strings.Join(strings.Fields(match[1]), " "))
	}
	return d
}

// anchors returns the anchors that GitHub gives to the headings of a document.
func (d document) anchors() (anchors []string) {
	seen := make(map[string]int)
	for line := range strings.Lines(d.text) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		heading = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1")
		anchor := strings.ReplaceAll(regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(heading, ""), " ", "-")
		if n := seen[anchor]; n > 0 {
			anchors = append(anchors, fmt.Sprintf("%s-%d", anchor, n))
		} else {
			anchors = append(anchors, anchor)
		}
		seen[anchor]++
	}
	return anchors
}

// TestDocumentsLinkToWhatExists checks relative links and their anchors, and the paths of this repository in
// backticks.
func TestDocumentsLinkToWhatExists(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	repoPath := regexp.MustCompile(`^(bootid|cmd|docs|fs|integration|lockstore|\.ci)/[\w./-]+$`)
	for _, d := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(d.text, "code"), -1) {
			to, anchor, hasAnchor := strings.Cut(match[1], "#")
			if strings.Contains(to, ":") { // a link to another site
				continue
			}
			name := filepath.Join(filepath.Dir(d.name), to)
			if to == "" {
				name = d.name
			}
			if !harness.Exists(harness.RepoPath(name)) {
				t.Errorf("%s: the link %s leads nowhere", d.name, match[1])
			} else if hasAnchor && filepath.Ext(name) == ".md" && !slices.Contains(readDocument(t, name).anchors(), anchor) {
				t.Errorf("%s: the link %s leads to no heading", d.name, match[1])
			}
		}
		for _, span := range d.code {
			if repoPath.MatchString(span) && !harness.Exists(harness.RepoPath(span)) {
				t.Errorf("%s: %s does not exist", d.name, span)
			}
		}
	}
}

// TestDocumentsNameTargets checks that the Makefile has every target that documents name.
func TestDocumentsNameTargets(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile(harness.RepoPath("Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	target := regexp.MustCompile(`(?:^|[ (;&])make ([a-z][a-z-]*)`)
	for _, d := range documents(t) {
		for _, code := range d.code {
			for _, match := range target.FindAllStringSubmatch(code, -1) {
				if !strings.Contains("\n"+string(makefile), "\n"+match[1]+":") {
					t.Errorf("%s: there is no target for `%s`", d.name, match[0])
				}
			}
		}
	}
}

// TestDocumentsNameTests checks that every test that documents name exists.
func TestDocumentsNameTests(t *testing.T) {
	t.Parallel()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w+)\(`)
	exists := make(map[string]bool)
	err := filepath.WalkDir(harness.RepoPath(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == "node_modules" || entry.Name() == ".git" {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, match := range function.FindAllStringSubmatch(string(text), -1) {
			exists[match[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^(?:Test|Benchmark|Fuzz)[A-Z]\w*`)
	for _, d := range documents(t) {
		for _, code := range d.code {
			if test := name.FindString(code); test != "" && !exists[test] {
				t.Errorf("%s: there is no %s", d.name, test)
			}
		}
	}
}

// TestDocumentsNameCommands checks that the program has every subcommand and flag that documents name.
func TestDocumentsNameCommands(t *testing.T) {
	t.Parallel()
	help := func(words ...string) string {
		out, err := exec.Command(harness.Latchfs, append(words, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", words, err, out)
		}
		return string(out)
	}
	_, list, _ := strings.Cut(help(), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	flags := make(map[string][]string) // of each subcommand
	flag := regexp.MustCompile(`--[a-z][a-z-]*`)
	for line := range strings.Lines(list) {
		name := strings.Fields(line)[0]
		flags[name] = flag.FindAllString(help(name), -1)
	}
	if len(flags) < 5 {
		t.Fatalf("the help names %d subcommands: %s", len(flags), list)
	}
	// A command may be behind another one, such as sudo. It ends where a further command begins.
	command := regexp.MustCompile(`(?:^|[;&|(] ?|\bsudo )(?:[\w./$-]*/)?latchfs ([a-z][a-z-]*)((?: [^;&|)]*)?)`)
	for _, d := range documents(t) {
		for _, code := range d.code {
			for _, match := range command.FindAllStringSubmatch(code, -1) {
				known, exists := flags[match[1]]
				if !exists {
					t.Errorf("%s: `%s`: there is no latchfs %s", d.name, code, match[1])
					continue
				}
				arguments, _, _ := strings.Cut(match[2], " -- ")
				arguments, _, _ = strings.Cut(arguments, " #")
				for _, f := range flag.FindAllString(arguments, -1) {
					if !slices.Contains(known, f) {
						t.Errorf("%s: `%s`: latchfs %s has no flag %s", d.name, code, match[1], f)
					}
				}
			}
		}
	}
}
