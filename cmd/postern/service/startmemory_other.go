//go:build !linux

package service

func forgetPages() {}
