package faultinject

import "strconv"

// A Code is an HTTP/2 error code (RFC 9113, section 7).
type Code uint32

// The codes that the RFC defines.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

var codes = [...]string{
	NoError:            "NO_ERROR",
	ProtocolError:      "PROTOCOL_ERROR",
	InternalError:      "INTERNAL_ERROR",
	FlowControlError:   "FLOW_CONTROL_ERROR",
	SettingsTimeout:    "SETTINGS_TIMEOUT",
	StreamClosed:       "STREAM_CLOSED",
	FrameSizeError:     "FRAME_SIZE_ERROR",
	RefusedStream:      "REFUSED_STREAM",
	Cancel:             "CANCEL",
	CompressionError:   "COMPRESSION_ERROR",
	ConnectError:       "CONNECT_ERROR",
	EnhanceYourCalm:    "ENHANCE_YOUR_CALM",
	InadequateSecurity: "INADEQUATE_SECURITY",
	HTTP11Required:     "HTTP_1_1_REQUIRED",
}

// String returns the RFC's name, such as "REFUSED_STREAM", or the number of a
// code that has none.
func (c Code) String() string {
	if int64(c) < int64(len(codes)) {
		return codes[c]
	}
	return strconv.FormatUint(uint64(c), 10)
}

// parseCode reads what String writes.
func parseCode(text string) (Code, bool) {
	for c, name := range codes {
		if name == text {
			return Code(c), true
		}
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return Code(n), err == nil
}
