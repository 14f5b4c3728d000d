package main

import (
	"bufio"
	"errors"
	"io"
	"text/tabwriter"
)

// table aligns columns. It buffers the output, because a tabwriter writes each cell separately.
type table struct {
	*tabwriter.Writer
	out *bufio.Writer
}

// tablePadding is the number of spaces between columns.
const tablePadding = 2

func newTable(out io.Writer) table {
	buffered := bufio.NewWriter(out)
	return table{tabwriter.NewWriter(buffered, 0, 8, tablePadding, ' ', 0), buffered}
}

// Flush writes the buffered rows.
func (t table) Flush() error { return errors.Join(t.Writer.Flush(), t.out.Flush()) }
