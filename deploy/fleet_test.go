package deploy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8s "sigs.k8s.io/yaml"
)

// manifests reads the manifests strictly: a field that the API does not have is a fault.
func manifests(t *testing.T) (config corev1.ConfigMap, d appsv1.Deployment, pdb policyv1.PodDisruptionBudget, service corev1.Service) {
	t.Helper()
	b, err := os.ReadFile("kubernetes/postern.yaml")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]any{
		"v1 Namespace": new(corev1.Namespace), "v1 ConfigMap": &config, "apps/v1 Deployment": &d,
		"policy/v1 PodDisruptionBudget": &pdb, "v1 Service": &service,
	}
	seen := 0
	for doc := range bytes.SplitSeq(b, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := k8s.Unmarshal(doc, &kind); err != nil {
			t.Fatal(err)
		}
		into := known[kind.APIVersion+" "+kind.Kind]
		if into == nil {
			t.Fatalf("%s %s is not known here", kind.APIVersion, kind.Kind)
		}
		if err := k8s.UnmarshalStrict(doc, into); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
		seen++
	}
	if seen != len(known) {
		t.Errorf("%d manifests, want %d", seen, len(known))
	}
	return config, d, pdb, service
}

func TestKubernetesManifests(t *testing.T) {
	config, d, pdb, service := manifests(t)
	text := config.Data["postern.yaml"]
	if err := load(t, text); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	pod := &d.Spec.Template
	labels := pod.Labels
	for what, selector := range map[string]map[string]string{
		"the deployment": d.Spec.Selector.MatchLabels, "the disruption budget": pdb.Spec.Selector.MatchLabels, "the service": service.Spec.Selector,
		"the anti-affinity": pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels,
	} {
		if len(selector) == 0 {
			t.Errorf("%s selects nothing", what)
		}
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s selects %s=%s, and the pods have %q", what, k, v, labels[k])
			}
		}
	}
	c := &pod.Spec.Containers[0]
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if probe == nil || ports[probe.HTTPGet.Port.StrVal] != 9125 {
			t.Errorf("the %s probe asks %+v", name, probe)
		}
	}
	if c.ReadinessProbe.HTTPGet.Path != "/readyz" || c.LivenessProbe.HTTPGet.Path != "/healthz" {
		t.Error("a pod that drains must not be ended for it")
	}
	if p := service.Spec.Ports[0]; p.Port != 25 || ports[p.TargetPort.StrVal] != 2525 {
		t.Errorf("%+v", p)
	}
	if pdb.Spec.MinAvailable.IntValue() < 1 || *d.Spec.Replicas <= int32(pdb.Spec.MinAvailable.IntValue()) {
		t.Error("no node could be drained, or all at once")
	}
	// Each file that the configuration names is mounted, and secrets are read by few.
	mounted := map[string]string{} // path by volume
	for _, m := range c.VolumeMounts {
		mounted[m.Name] = m.MountPath
	}
	for _, v := range pod.Spec.Volumes {
		if mounted[v.Name] == "" {
			t.Errorf("volume %s is mounted nowhere", v.Name)
		}
		if v.Secret != nil && (v.Secret.DefaultMode == nil || *v.Secret.DefaultMode&0o007 != 0) {
			t.Errorf("everybody reads the secret %s", v.Name)
		}
		delete(mounted, v.Name)
	}
	if len(mounted) > 0 {
		t.Errorf("mounted without a volume: %v", mounted)
	}
	for _, path := range []string{"/run/secrets/tls/tls.crt", "/run/secrets/valkey/password", "/run/postern/control", "/var/lib/postern/journal"} {
		if !strings.Contains(text, path) || !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return strings.HasPrefix(path, m.MountPath+"/") }) {
			t.Errorf("%s is not in the configuration, or on no volume", path)
		}
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		t.Error("the service named postern makes variables that are faults")
	}
	if !strings.Contains(text, "drain: 50s") || *pod.Spec.TerminationGracePeriodSeconds < 55 {
		t.Error("messages under way are cut off")
	}
}

// The fleet of the compose file: its addresses are those that its configurations have.
func TestComposeFleet(t *testing.T) {
	var compose struct {
		XPostern any `yaml:"x-postern"`
		Services map[string]struct {
			Build    any
			Image    string
			Restart  string
			Command  []string
			Ports    []string
			Volumes  []string
			Networks map[string]struct {
				IPv4 string `yaml:"ipv4_address"`
			}
			DependsOn       []string `yaml:"depends_on"`
			StopGracePeriod string   `yaml:"stop_grace_period"`
			ReadOnly        bool     `yaml:"read_only"`
			CapDrop         []string `yaml:"cap_drop"`
			SecurityOpt     []string `yaml:"security_opt"`
			MemLimit        string   `yaml:"mem_limit"`
			Environment     map[string]string
		}
		Networks map[string]any
		Volumes  map[string]any
	}
	b, err := os.ReadFile("compose/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	in := yaml.NewDecoder(bytes.NewReader(b))
	in.KnownFields(true)
	if err := in.Decode(&compose); err != nil {
		t.Fatal(err)
	}
	if err := in.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Error("more than one document")
	}
	at := func(service string) string { return compose.Services[service].Networks["mail"].IPv4 }
	read := func(file string) string {
		b, err := os.ReadFile("compose/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	postern, haproxy := read("fleet-postern.yaml"), read("haproxy.cfg")
	if err := load(t, postern); err != nil {
		t.Error(err)
	}
	for text, wants := range map[string][]string{
		postern: {`proxy_protocol: ["` + at("haproxy") + `"]`, at("postfix") + ":10025", at("valkey") + ":6379"},
		haproxy: {at("postern1") + ":2525 send-proxy-v2 check", at("postern2") + ":2525 send-proxy-v2 check"},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	}
	for name, s := range compose.Services {
		for _, d := range s.DependsOn {
			if _, ok := compose.Services[d]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, d)
			}
		}
		if at(name) == "" {
			t.Errorf("%s has no address", name)
		}
	}
	if !slices.Contains(compose.Services["valkey"].Command, "noeviction") {
		t.Error("a store that throws away for room loses notices")
	}
	// The real tool, where this machine has it; the e2e tests run it before two Posterns.
	if path, err := exec.LookPath("haproxy"); err == nil {
		if out, err := exec.Command(path, "-c", "-f", "compose/haproxy.cfg").CombinedOutput(); err != nil {
			t.Errorf("haproxy: %v\n%s", err, out)
		}
	}
}
