//go:build ignore

// Manifests reads Kubernetes objects from standard input, as `kustomize build` prints them, and holds each against the Go types of the
// Kubernetes API: unknown fields, wrong types, kinds that do not exist. It needs no network, as kubeconform's schemas do; and it asks
// for what a deployment of this service must have.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = check(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

var kinds = map[string]func() any{
	"apps/v1 Deployment":                     func() any { return new(appsv1.Deployment) },
	"autoscaling/v2 HorizontalPodAutoscaler": func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"batch/v1 Job":                           func() any { return new(batchv1.Job) },
	"policy/v1 PodDisruptionBudget":          func() any { return new(policyv1.PodDisruptionBudget) },
	"v1 ConfigMap":                           func() any { return new(corev1.ConfigMap) },
	"v1 Service":                             func() any { return new(corev1.Service) },
}

func check(text []byte) error {
	var faults []error
	objects, deployments := 0, 0
	for reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := strict.Unmarshal(document, &head); err != nil {
			return err
		}
		name := head.APIVersion + " " + head.Kind
		make, known := kinds[name]
		if !known {
			faults = append(faults, fmt.Errorf("%s: this check does not know the kind %s", head.Metadata.Name, name))
			continue
		}
		object := make()
		if err := strict.UnmarshalStrict(document, object); err != nil {
			faults = append(faults, fmt.Errorf("%s %s: %w", name, head.Metadata.Name, err))
			continue
		}
		objects++
		if d, ok := object.(*appsv1.Deployment); ok {
			deployments++
			faults = append(faults, deployment(d)...)
		}
	}
	if deployments == 0 {
		faults = append(faults, errors.New("there is no deployment"))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	fmt.Printf("%d objects are as the Kubernetes API has them\n", objects)
	return nil
}

// deployment is what a deployment of this service must have.
func deployment(d *appsv1.Deployment) (faults []error) {
	fault := func(what string) { faults = append(faults, fmt.Errorf("deployment %s: %s", d.Name, what)) }
	pod := d.Spec.Template.Spec
	if pod.SecurityContext == nil || pod.SecurityContext.RunAsNonRoot == nil || !*pod.SecurityContext.RunAsNonRoot {
		fault("may run as root")
	}
	for key, value := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[key] != value {
			fault("its selector does not find its own pods: " + key)
		}
	}
	for _, c := range pod.Containers {
		if c.StartupProbe == nil || c.LivenessProbe == nil || c.ReadinessProbe == nil {
			fault("container " + c.Name + " lacks a probe")
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			fault("container " + c.Name + " does not say what it takes")
		}
	}
	return faults
}
