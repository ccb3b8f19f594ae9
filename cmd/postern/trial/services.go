package trial

import (
	"context"
	"errors"
	"sync"
	"time"

	"postern/checks"
	"postern/checks/delegation"
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

// services stands in for policy services.
type services struct {
	mu   sync.Mutex
	tell []caseService
}

func (s *services) say(c []caseService) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = c
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
