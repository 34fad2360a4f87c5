package opsui

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

func (s *Server) sagas() Page {
	return Page{Path: "/ui/sagas", Title: "Sagas", Nav: "/ui/sagas", Template: "sagas", Streams: AnyStream, Load: func(r *http.Request) (any, error) {
		l, page, err := NewList[saga.State](r,
			string(saga.StatusRunning), string(saga.StatusCompensating), string(saga.StatusStuck), string(saga.StatusCompleted), string(saga.StatusCompensated))
		if err != nil {
			return nil, err
		}
		rows, err := cqrs.Execute(r.Context(), s.Queries, manager.List{Status: saga.Status(l.Status), Page: page})
		l.SetRows(r, rows, func(row saga.State) cqrs.Cursor { return cqrs.Cursor{At: row.StartedAt, ID: row.ID} })
		return l, err
	}}
}

func (s *Server) saga() Page {
	return Page{Path: "/ui/sagas/{id}", Title: "Saga", Nav: "/ui/sagas", Template: "saga", Streams: func(r *http.Request) []string {
		return []string{saga.Category + "/" + r.PathValue("id")}
	}, Load: func(r *http.Request) (any, error) {
		return LoadSaga(r.Context(), s.Queries, s.Registered.Sagas, r.PathValue("id"))
	}}
}

// actions are the actions of the kit's forms, by their paths.
func (s *Server) actions() map[string]Action {
	all := map[string]Action{
		"/ui/sagas/{id}/retry": s.operate("Retry saga %s now? It sends the command of the stuck step again.", "Retry", "The command is sent again.",
			func(by, _, step string) saga.Input { return saga.Retry{By: by, Step: step} }),
		"/ui/sagas/{id}/skip": s.operate("Skip the stuck step of saga %s? It counts as completed, and the saga continues with the next step.", "Skip the step", "The step is skipped.",
			func(by, reason, step string) saga.Input { return saga.Skip{By: by, Reason: reason, Step: step} }),
		"/ui/sagas/{id}/resolve": s.operate("Resolve saga %s? Every remaining step counts as done by hand, and no command is sent for it.", "Resolve", "The saga is resolved.",
			func(by, reason, step string) saga.Input { return saga.Resolve{By: by, Reason: reason, Step: step} }),
		"/ui/sagas/{id}/signals/{name}": s.signal(),
		"/ui/dead-letters/{id}/replay":  s.replay(),
		"/ui/dead-letters/{id}/drop":    s.drop(),
	}
	if s.Sandbox != nil {
		all["/ui/sandbox/{service}"] = Action{Do: s.setFaults}
	}
	return all
}

// operate is the action for the decision of an operator about a stuck saga. Every decision but a retry needs a reason and is irreversible.
func (s *Server) operate(question, button, notice string, input func(by, reason, step string) saga.Input) Action {
	_, retry := input("", "", "").(saga.Retry)
	return Action{
		Irreversible: !retry,
		Confirm: func(r *http.Request) (string, string) {
			return fmt.Sprintf(question, Short(r.PathValue("id"))), button
		},
		Do: func(r *http.Request) (string, string, error) {
			why, err := reason(r)
			if err != nil && !retry {
				return "", "", err
			}
			id := r.PathValue("id")
			return notice, "/ui/sagas/" + url.PathEscape(id), s.Operate(r.Context(), id, input(cqrs.PrincipalFromContext(r.Context()).Subject, why, r.PostForm.Get("step")))
		},
	}
}
