{{- /*
  The server runs either as root, with the capabilities needed to act as each caller, or as an
  ordinary user with none. The runtime's default seccomp profile allows open_by_handle_at to holders
  of CAP_DAC_READ_SEARCH. Old runtimes forbid name_to_handle_at; Berth then uses handles by path.
  There is no fsGroup for root: the kubelet would change the group of all files of all volumes.
*/ -}}
{{- define "berth.podSecurityContext" -}}
{{- $context := dict "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if .Values.rootless -}}
{{- $user := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 -}}
{{- $context = merge $context $user (dict "fsGroupChangePolicy" "OnRootMismatch") -}}
{{- else -}}
{{- $context = merge $context (dict "runAsUser" 0 "runAsGroup" 0) -}}
{{- end -}}
{{- range $key, $value := .Values.podSecurityContext }}{{ $_ := set $context $key $value }}{{ end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "berth.securityContext" -}}
{{- $capabilities := dict "drop" (list "ALL") -}}
{{- if not .Values.rootless -}}
{{- $add := list "CHOWN" "DAC_OVERRIDE" "DAC_READ_SEARCH" "FOWNER" "FSETID" "MKNOD" "SETGID" "SETUID" -}}
{{- $_ := set $capabilities "add" $add -}}
{{- end -}}
{{- $context := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" $capabilities -}}
{{- range $key, $value := .Values.securityContext }}{{ $_ := set $context $key $value }}{{ end -}}
{{- toYaml $context -}}
{{- end -}}
