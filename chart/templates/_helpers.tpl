{{- define "berth.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- /*
  At most 52 characters: a label of the pods appends 11 to the StatefulSet's name, and labels have at
  most 63.
*/ -}}
{{- define "berth.fullname" -}}
{{- $name := include "berth.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /*
  The name of objects outside the release's namespace. It is unique, because namespaces contain no
  dot.
*/ -}}
{{- define "berth.clusterName" -}}
{{- printf "%s.%s" .Release.Namespace (include "berth.fullname" .) -}}
{{- end -}}

{{- define "berth.selector" -}}
app.kubernetes.io/name: {{ include "berth.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "berth.labels" -}}
{{- $ours := include "berth.selector" . | fromYaml -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- $_ := set $ours "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" .Release.Service -}}
{{- merge $ours .Values.commonLabels | toYaml -}}
{{- end -}}

{{- /* Without version labels: a new version of the chart alone must not restart the server. */ -}}
{{- define "berth.podLabels" -}}
{{- merge (include "berth.selector" . | fromYaml) .Values.podLabels .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "berth.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "berth.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "berth.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* The default contains the namespace, which makes it unique in the cluster. */ -}}
{{- define "berth.provisioner" -}}
{{- .Values.provisionerName | default (printf "%s.cluster.local/%s" .Release.Namespace (include "berth.fullname" .)) -}}
{{- end -}}

{{- /* The default must equal the name that Berth derives from the provisioner's name. */ -}}
{{- define "berth.lease" -}}
{{- .Values.leaderElection.leaseName | default (include "berth.provisioner" . | replace "/" "-" | replace "_" "-" | lower) -}}
{{- end -}}

{{- define "berth.dataClaim" -}}
{{- .Values.persistence.existingClaim | default (printf "%s-data" (include "berth.fullname" .)) -}}
{{- end -}}

{{- /*
  The IP families on which the server listens; by default that of the Service `kubernetes` of the
  cluster.
*/ -}}
{{- define "berth.families" -}}
{{- if .Values.service.ipFamilies -}}
{{- join "," .Values.service.ipFamilies -}}
{{- else if has .Values.service.ipFamilyPolicy (list "PreferDualStack" "RequireDualStack") -}}
IPv4,IPv6
{{- else if contains ":" (dig "spec" "clusterIP" "" (lookup "v1" "Service" "default" "kubernetes")) -}}
IPv6
{{- else -}}
IPv4
{{- end -}}
{{- end -}}

{{- /*
  Values of --admin-host: the names of the admin Service, whose address is unknown here, and
  admin.hosts.
*/ -}}
{{- define "berth.adminHosts" -}}
{{- $hosts := list -}}
{{- if .Values.admin.service.enabled -}}
{{- $name := printf "%s-admin" (include "berth.fullname" .) -}}
{{- $here := printf "%s.%s" $name .Release.Namespace -}}
{{- $hosts = list $name $here (printf "%s.svc" $here) (printf "%s.svc.cluster.local" $here) -}}
{{- end -}}
{{- concat $hosts .Values.admin.hosts | join "," -}}
{{- end -}}

{{- /* The command line, one option per line. */ -}}
{{- define "berth.args" -}}
{{- $families := include "berth.families" . -}}
- serve
- --volumes=/data
{{- if contains "IPv4" $families }}
- --listen=0.0.0.0:2049
{{- end }}
{{- if contains "IPv6" $families }}
- --listen=[::]:2049
{{- end }}
- --admin={{ ternary "[::]" "0.0.0.0" (contains "IPv6" $families) }}:{{ .Values.admin.port }}
{{- with include "berth.adminHosts" . }}
- --admin-host={{ . }}
{{- end }}
- --provisioner={{ include "berth.provisioner" . }}
{{- if .Values.nfsServer }}
- --nfs-server={{ .Values.nfsServer }}
{{- else }}
- --nfs-service={{ .Release.Namespace }}/{{ include "berth.fullname" . }}
{{- end }}
{{- with .Values.namespaces }}
- --namespaces={{ join "," . }}
{{- end }}
{{- with .Values.leaderElection.leaseName }}
- --lease-name={{ . }}
{{- end }}
- --lease-namespace={{ .Release.Namespace }}
- --purge-rate={{ .Values.purgeRate | int64 }}
- --recount={{ .Values.recount | int64 }}
{{- with .Values.overcommit }}
- --overcommit={{ . | int64 }}
{{- end }}
- --grace={{ .Values.grace | int64 }}
- --log-format={{ .Values.logFormat }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
