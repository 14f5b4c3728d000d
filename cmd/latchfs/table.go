package main

import (
	"bufio"
	"errors"
	"io"
	"text/tabwriter"
)

// table lines columns up. A tabwriter alone writes each cell by itself.
type table struct {
	*tabwriter.Writer
	out *bufio.Writer
}

// tablePadding is what lies between columns.
const tablePadding = 2

func newTable(out io.Writer) table {
	buffered := bufio.NewWriter(out)
	return table{tabwriter.NewWriter(buffered, 0, 8, tablePadding, ' ', 0), buffered}
}

// Flush writes what is lined up.
func (t table) Flush() error { return errors.Join(t.Writer.Flush(), t.out.Flush()) }
