package main

import (
	"fmt"
	"io"

	"github.com/sirupsen/logrus"
)

// newLog makes the logger of the flags --log-level and --log-format.
func newLog(out io.Writer, level, format string) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(out)
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, usageError{fmt.Errorf("--log-level %q: use trace, debug, info, warning or error", level)}
	}
	log.SetLevel(parsed)
	switch format {
	case "text":
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{})
	default:
		return nil, usageError{fmt.Errorf("--log-format %q: use text or json", format)}
	}
	return log, nil
}
