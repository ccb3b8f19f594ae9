package smtp

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/mail"
	"strings"
	"testing"
)

// message returns about size octets of text in lines of 76 octets, CRLF included.
func message(size int) []byte {
	return bytes.Repeat([]byte(strings.Repeat("x", 74)+"\r\n"), size/76+1)
}

var typicalHeader = []byte(strings.Repeat("Received: from mail.example.org (mail.example.org [192.0.2.1])\r\n\tby mx.example.net with ESMTPS id abcdef\r\n\tfor <a@example.net>; Mon, 01 Jan 2024 00:00:00 +0000\r\n", 4) +
	"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=s1;\r\n h=from:to:subject:date:message-id;\r\n bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n b=" + strings.Repeat("abcdefgh", 42) + "\r\n" +
	"From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: hello\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")

func BenchmarkDataScanner(b *testing.B) {
	for _, block := range []int{4 << 10, 32 << 10} {
		for _, detect := range []bool{false, true} {
			b.Run(fmt.Sprintf("block=%dKiB/detect8bit=%v", block>>10, detect), func(b *testing.B) {
				text := message(block)[:block]
				text = text[:bytes.LastIndexByte(text, '\n')+1]
				s := DataScanner{Detect8Bit: detect}
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if n, _, _ := s.Scan(text); n != len(text) {
						b.Fatal(n)
					}
				}
			})
		}
	}
}

func BenchmarkDotWriter(b *testing.B) {
	text := message(32 << 10)
	d := NewDotWriter(io.Discard)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Write(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnstuffer(b *testing.B) {
	text := message(32 << 10)
	dst := make([]byte, 0, len(text))
	var u Unstuffer
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		u.Append(dst[:0], text)
	}
}

func BenchmarkReadLine(b *testing.B) {
	line := []byte("RCPT TO:<somebody@department.example.org>\r\n")
	r := bytes.NewReader(nil)
	br := bufio.NewReader(r)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(line)
		br.Reset(r)
		if _, err := ReadLine(br, 2048); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseCommand(b *testing.B) {
	line := []byte("MAIL FROM:<somebody@department.example.org> SIZE=12345 BODY=8BITMIME")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ParseCommand(line); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseMail(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ParseMail("FROM:<somebody@department.example.org> SIZE=12345 BODY=8BITMIME"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseRcpt(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ParseRcpt("TO:<somebody@department.example.org>", false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseHeader(b *testing.B) {
	b.Run("offsets", func(b *testing.B) {
		b.SetBytes(int64(len(typicalHeader)))
		b.ReportAllocs()
		for b.Loop() {
			if h, _ := ParseHeader(typicalHeader); len(h) != 12 {
				b.Fatal(len(h))
			}
		}
	})
	b.Run("net-mail", func(b *testing.B) {
		b.SetBytes(int64(len(typicalHeader)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := mail.ReadMessage(bytes.NewReader(typicalHeader)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppendReply(b *testing.B) {
	dst := make([]byte, 0, 4096)
	r := Reply{550, "7.1", "Submitter not allowed. (0123456789)"}
	b.ReportAllocs()
	for b.Loop() {
		AppendReply(dst, r)
	}
}

func BenchmarkReadReply(b *testing.B) {
	wire := []byte("250 2.0.0 Ok: queued as 4ABCDEF\r\n")
	r := bytes.NewReader(nil)
	br := bufio.NewReader(r)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(wire)
		br.Reset(r)
		if _, err := ReadReply(br); err != nil {
			b.Fatal(err)
		}
	}
}
