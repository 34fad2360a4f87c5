//go:build ignore

package main

import (
	"strings"
	"testing"
)

const good = `apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      securityContext: {runAsNonRoot: true}
      containers:
        - name: a
          startupProbe: {httpGet: {path: /, port: 1}}
          livenessProbe: {httpGet: {path: /, port: 1}}
          readinessProbe: {httpGet: {path: /, port: 1}}
          resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}
`

func TestFaultsAreFound(t *testing.T) {
	if err := check([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for change, want := range map[string]string{
		"replicated: 1\n  selector:|selector:":   "unknown field",
		"templates:|template:":                   "unknown field",
		"kind: Deploiment|kind: Deployment":      "does not know the kind",
		"runAsNonRoot: false|runAsNonRoot: true": "may run as root",
		"labels: {app: b}|labels: {app: a}":      "does not find its own pods",
		"otherProbe:|livenessProbe:":             "unknown field",
		"cpu: 0|cpu: 1":                          "does not say what it takes",
		"kind: PodDisruptionBudget\napiVersion: policy/v1\nmetadata: {name: b}|" + good: "there is no deployment",
	} {
		with, old, _ := strings.Cut(change, "|")
		if err := check([]byte(strings.Replace(good, old, with, 1))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", with, err, want)
		}
	}
}
