// Package chromium drives a headless Chromium for the tests of our pages, by the
// DevTools protocol over a pipe. It uses the standard library only.
package chromium

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"
)

// A Browser shows one page. It takes one command at a time, and any failure
// ends the test.
type Browser struct {
	t       *testing.T
	in      *bufio.Reader
	out     io.Writer
	session string
	last    int
}

// New opens a blank page until the test ends, and skips the test where there is
// no Chromium.
func New(t *testing.T) *Browser {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium in the PATH: the page was not tried in a browser")
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--disable-dev-shm-usage", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "about:blank")
	theirs, ours := pipes(t)
	cmd.ExtraFiles = theirs[:] // file 3 is read and 4 written by the browser
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &Browser{t: t, in: bufio.NewReader(ours[1]), out: ours[0]}
	t.Cleanup(func() {
		io.WriteString(b.out, `{"id":0,"method":"Browser.close"}`+"\x00")
		io.Copy(io.Discard, b.in) // the rest of its events, up to its end
		cmd.Wait()
	})
	for _, f := range theirs {
		f.Close()
	}
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	return b
}

func pipes(t *testing.T) (theirs, ours [2]*os.File) {
	var err error
	if theirs[0], ours[0], err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	if ours[1], theirs[1], err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ours[0].Close()
		ours[1].Close()
	})
	return theirs, ours
}

// call sends a command and reads up to its answer; events are not looked at.
func (b *Browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.last++
	command := map[string]any{"id": b.last, "method": method, "params": params}
	if params == nil {
		delete(command, "params")
	}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	text, err := json.Marshal(command)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.out.Write(append(text, 0)); err != nil {
		b.t.Fatal(err)
	}
	for {
		text, err := b.in.ReadBytes(0)
		if err != nil {
			b.t.Fatal(method, err)
		}
		var m struct {
			ID            int
			Error, Result json.RawMessage
		}
		if err := json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m); err != nil {
			b.t.Fatal(err)
		}
		if m.ID != b.last {
			continue
		}
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatal(err)
			}
		}
		return
	}
}

// Eval runs script in the page as the body of an async function with the helpers
// below, and returns the string it returns. What it waits for by until must come
// within 20 s.
func (b *Browser) Eval(script string) string {
	b.t.Helper()
	const helpers = `
		const $ = id => document.getElementById(id);
		const until = async what => {
			for (const end = Date.now() + 20000;;) {
				const v = what();
				if (v) return v;
				if (Date.now() > end) throw new Error("never true: " + what + "\n" + document.body.innerText);
				await new Promise(requestAnimationFrame);
			}
		};
		const fill = (id, text) => { $(id).value = text; for (const e of ["input", "change"]) $(id).dispatchEvent(new Event(e, {bubbles: true})); };
	`
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{
		"expression": "(async () => {" + helpers + script + "})()", "awaitPromise": true, "returnByValue": true,
	}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s", r.ExceptionDetails)
	}
	text, _ := r.Result.Value.(string)
	return text
}

// Open goes to url and waits until the page there is loaded, and the script
// expression ready is true in it.
func (b *Browser) Open(url, ready string) {
	b.t.Helper()
	b.call("Page.enable", nil, nil)
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	b.Eval(`await until(() => document.readyState === "complete" && location.href !== "about:blank" && (` + ready + `))`)
}

// Look sets the window's width and the colour scheme, "light" or "dark".
func (b *Browser) Look(width int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// Press presses and releases a key by its DevTools name, such as "Tab".
func (b *Browser) Press(key string, code int) {
	b.t.Helper()
	text := map[string]string{"Enter": "\r"}[key]
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}, nil)
	}
}

// Screenshot writes what the window shows to file, as PNG.
func (b *Browser) Screenshot(file string) {
	b.t.Helper()
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
