package keeper

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// ExitHandedOver is the exit code of a server that handed the mount over to the next server.
const ExitHandedOver = 42

// Descriptor numbers that a server starts with.
const (
	programFD = 3 + iota // the program that the server is started from
	tablesFD
	keeperFD // end of the socket pair; the first message is the Config
	// Only if the keeper resumes a mount whose previous keeper has died.
	deviceFD
	rootFD
)

// Messages between keeper and server.
const (
	messageClaim   = "claim"    // server: keep this descriptor, which claims the backing directory
	messageServing = "serving"  // server: the mount is usable
	messageBound   = "bound"    // server: the mount is usable, but dies with this server
	messageYield   = "make way" // keeper: end, and leave unanswered requests to the next server
	messageLimit   = 1 << 16    // bytes
)

// message is a message from a server, with its descriptors.
type message struct {
	text  string
	files []*os.File
}

// Config tells a server what to serve. Servers of newer versions read the Config of older keepers.
type Config struct {
	Dir      string
	Flags    json.RawMessage // of latchfs mount
	Keeper   int             // pid of the keeper
	Claim    int64           // number with which the keeper claims the backing directory
	OOMScore string          // OOM score of the server
	Daemon   bool            // the log goes to a file
	// Storable reports whether a service manager may keep descriptors, Stored whether it has kept some.
	Storable, Stored bool
}

// Server is the server's end of the connection to its keeper.
type Server struct {
	Config Config
	Tables *os.File
	// Stored holds the descriptors of a mount whose previous keeper has died; nil otherwise.
	Stored *backing.Stored
	// Yield receives a value when the keeper asks the server to hand over.
	Yield  <-chan struct{}
	keeper *os.File
}

// Connect takes over the descriptors from the keeper and reads the Config.
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
	// The keeper can replace the server, so the kernel may kill the server first.
	_ = os.WriteFile(oomScore, []byte(s.Config.OOMScore), 0)
	yield := make(chan struct{}, 1)
	s.Yield = yield
	go s.follow(yield)
	return s, nil
}

// follow waits for messages from the keeper. It kills this server when the keeper ends: without a keeper, no process
// would replace the server.
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

// Serving tells the keeper that the mount is usable, and whether it outlives this server. If a service manager
// stores descriptors, it keeps the device and the root.
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
		return fmt.Errorf("notify the keeper: %w", err)
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

// receiveMessage receives a message with its descriptors. The text is "" if the other end is closed.
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
