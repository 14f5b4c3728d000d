package main

import (
	"fmt"
	"io"

	"github.com/sirupsen/logrus"

	"latchfs/fs/control"
)

// setLogLevel sets the log level by its name.
func setLogLevel(log *logrus.Logger, level string) error {
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return fmt.Errorf("%q: use trace, debug, info, warning or error", level)
	}
	log.SetLevel(parsed)
	return nil
}

// hush limits the log of a daemon to warnings and errors while it goes to the terminal that started the daemon. The
// returned function restores the level; the caller calls it when the log goes to a file.
func hush(log *logrus.Logger, daemon bool) (loud func()) {
	level := log.GetLevel()
	if daemon && isTerminal(log.Out) && level > logrus.WarnLevel {
		log.SetLevel(logrus.WarnLevel)
	}
	return func() { log.SetLevel(level) }
}

// jsonLines formats log entries as JSON in which control characters are escaped.
type jsonLines struct{ logrus.JSONFormatter }

// Format implements logrus.Formatter.
func (j jsonLines) Format(entry *logrus.Entry) ([]byte, error) {
	line, err := j.JSONFormatter.Format(entry)
	return control.PrintableJSON(line), err
}

// newLog returns a logger for the values of --log-level and --log-format.
func newLog(out io.Writer, level, format string) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(out)
	if err := setLogLevel(log, level); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %w", err)}
	}
	switch format {
	case "text":
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	case "json":
		log.SetFormatter(jsonLines{})
	default:
		return nil, usageError{fmt.Errorf("--log-format %q: use text or json", format)}
	}
	return log, nil
}
