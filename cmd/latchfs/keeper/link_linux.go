package keeper

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// ExitHandedOver is the exit code of a server that made way for another.
const ExitHandedOver = 42

// Descriptors that a server starts with.
const (
	programFD = 3 + iota // the program that the server is started from
	tablesFD
	keeperFD // of a socket pair; the first message is the Config
	// Only for a mount whose keeper has died.
	deviceFD
	rootFD
)

// Messages between keeper and server.
const (
	messageClaim   = "claim"    // server: keep this descriptor of the directory beneath, which claims it
	messageServing = "serving"  // server: the mount is usable
	messageBound   = "bound"    // server: the mount is usable, but dies with this server
	messageYield   = "make way" // keeper: end, and leave unanswered requests to the next server
	messageLimit   = 1 << 16    // bytes
)

// message is what a server sends.
type message struct {
	text  string
	files []*os.File
}

// Config is what a server is to serve. The servers of newer versions read the Config of older keepers.
type Config struct {
	Dir      string
	Flags    json.RawMessage // of latchfs mount
	Keeper   int             // the keeper's process
	Claim    int64           // the number that the keeper claims the directory with
	OOMScore string          // of the server
	Daemon   bool            // the log goes to a file
	// Storable: a service manager may keep descriptors. Stored: it has kept some.
	Storable, Stored bool
}

// Server is the server's end of the connection to its keeper.
type Server struct {
	Config Config
	Tables *os.File
	// Stored are the descriptors of a mount whose keeper has died; nil otherwise.
	Stored *backing.Stored
	// Yield receives a value when the server is to make way for another.
	Yield  <-chan struct{}
	keeper *os.File
}

// Connect takes the descriptors and the Config that the keeper has started this server with.
func Connect() (*Server, error) {
	unix.Close(programFD)
	unix.CloseOnExec(tablesFD)
	unix.CloseOnExec(keeperFD)
	s := &Server{Tables: os.NewFile(tablesFD, "tables"), keeper: os.NewFile(keeperFD, "keeper")}
	text := make([]byte, messageLimit)
	n, err := s.keeper.Read(text)
	if err == nil {
		err = json.Unmarshal(text[:n], &s.Config)
	}
	if err != nil {
		return nil, err
	}
	if s.Config.Stored {
		s.Stored = &backing.Stored{Device: os.NewFile(deviceFD, "device"), Root: os.NewFile(rootFD, "root")}
	}
	// The server can be replaced, the keeper cannot.
	_ = os.WriteFile(oomScore, []byte(s.Config.OOMScore), 0)
	yield := make(chan struct{}, 1)
	s.Yield = yield
	go s.follow(yield)
	return s, nil
}

// follow waits for messages of the keeper. Without a keeper nobody would start another server, and the descriptor keeper
// ends with it: so does this server.
func (s *Server) follow(yield chan<- struct{}) {
	text := make([]byte, messageLimit)
	for {
		n, err := s.keeper.Read(text)
		if err != nil || n == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		if string(text[:n]) == messageYield {
			yield <- struct{}{}
		}
	}
}

// Claim gives the keeper a descriptor that claims the directory beneath.
func (s *Server) Claim(claimed *os.File) error {
	return sendMessage(s.keeper, messageClaim, int(claimed.Fd()))
}

// Serving tells the keeper that the mount is usable, and whether it outlives this server. The descriptors are for a service
// manager to keep.
func (s *Server) Serving(outlives bool, device, root int) error {
	text := messageServing
	if !outlives {
		text = messageBound
	}
	var stored []int
	if s.Config.Storable {
		stored = []int{device, root}
	}
	if err := sendMessage(s.keeper, text, stored...); err != nil {
		return fmt.Errorf("tell the keeper: %w", err)
	}
	return nil
}

// sendMessage sends a message with descriptors.
func sendMessage(socket *os.File, text string, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(int(socket.Fd()), []byte(text), rights, nil, 0)
}

// receiveMessage receives a message; "" means that the other end is closed.
func receiveMessage(socket *os.File) (text string, files []*os.File, err error) {
	buffer, control := make([]byte, messageLimit), make([]byte, unix.CmsgSpace(2*4))
	n, controlled, _, _, err := unix.Recvmsg(int(socket.Fd()), buffer, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "stored"))
		}
	}
	return string(buffer[:n]), files, err
}
