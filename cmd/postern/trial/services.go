package trial

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"postern/checks"
	"postern/checks/delegation"
	"postern/checks/milter"
	"postern/configs"
	"postern/policy"
)

// caseService is what a policy service answers in a case: dunno where nothing is said of it.
type caseService struct {
	Name   string `yaml:"name"`
	Action string `yaml:"action"`
	Text   string `yaml:"text"`

	Position configs.Position `yaml:"-"`
}

// caseMilter is what a milter says in a case: none where nothing is said of it.
type caseMilter struct {
	Name   string `yaml:"name"`
	Action string `yaml:"action"`
	Reply  string `yaml:"reply"` // "550 5.7.1 text"
	Reason string `yaml:"reason"`

	Position configs.Position `yaml:"-"`
}

// services stands in for policy services and milters.
type services struct {
	mu      sync.Mutex
	tell    []caseService
	milters []caseMilter
}

func (s *services) say(c []caseService, m []caseMilter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell, s.milters = c, m
}

// judging are the milters that the rules of a chain may read.
func (s *services) judging(chain *policy.Chain) (all []checks.Milter) {
	for _, name := range chain.Milters() {
		all = append(all, checks.Milter{Name: name, Timeout: time.Minute, Size: math.MaxInt64, Ask: func(context.Context, *milter.Message) (milter.Verdict, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, c := range s.milters {
				switch {
				case c.Name == name && (c.Action == string(policy.TempError) || c.Action == string(policy.Skipped)):
					return milter.Verdict{}, errors.New("the case says so")
				case c.Name == name:
					return milter.Verdict{Action: c.Action, Reply: c.Reply, Reason: c.Reason}, nil
				}
			}
			return milter.Verdict{Action: milter.ActionNone}, nil
		}})
	}
	return all
}

// of are the services that the rules of a chain may read.
func (s *services) of(chain *policy.Chain) (all []checks.Service) {
	for _, name := range chain.Services() {
		all = append(all, checks.Service{Name: name, Timeout: time.Minute, Ask: func(context.Context, []delegation.Attribute) (delegation.Answer, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, c := range s.tell {
				switch {
				case c.Name == name && (c.Action == string(policy.TempError) || c.Action == string(policy.Skipped)):
					return delegation.Answer{}, errors.New("the case says so")
				case c.Name == name:
					return delegation.Answer{Action: c.Action, Text: c.Text}, nil
				}
			}
			return delegation.Answer{Action: "dunno"}, nil
		}})
	}
	return all
}
