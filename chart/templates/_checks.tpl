{{- /*
  What the schema cannot see, because it is about several values or about the cluster. Each message says what to do.
*/ -}}
{{- define "berth.checks" -}}
{{- $names := list -}}
{{- $defaults := list -}}
{{- range .Values.storageClasses -}}
{{- $names = append $names .name -}}
{{- if .defaultClass }}{{ $defaults = append $defaults .name }}{{ end -}}
{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- fail "storageClasses: two have the same name" -}}
{{- end -}}
{{- if gt (len $defaults) 1 -}}
{{- fail (printf "storageClasses: only one can have defaultClass, not %s" (join ", " $defaults)) -}}
{{- end -}}

{{- $data := .Values.persistence -}}
{{- if and $data.existingClaim $data.hostPath -}}
{{- fail "persistence.existingClaim and persistence.hostPath: name only one of them" -}}
{{- end -}}
{{- if $data.hostPath -}}
{{- if not (or .Values.nodeSelector .Values.affinity) -}}
{{- fail "persistence.hostPath is a directory of one node: say which with nodeSelector (like kubernetes.io/hostname), or the data stays behind when the pod moves" -}}
{{- end -}}
{{- else if $data.existingClaim -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .Release.Namespace $data.existingClaim -}}
{{- if has (dig "spec" "storageClassName" "" $claim) $names -}}
{{- fail (printf "persistence.existingClaim %s is of a class of Berth itself, which would wait for its own volume: name another claim" $data.existingClaim) -}}
{{- end -}}
{{- else if has $data.storageClass $names -}}
{{- fail (printf "persistence.storageClass %s is a class of Berth itself, which would wait for its own volume: name another class" $data.storageClass) -}}
{{- else if and $defaults (not $data.storageClass) -}}
{{- fail (printf "storageClasses: with %s as the default class, name the class of Berth's own disk: persistence.storageClass" (first $defaults)) -}}
{{- end -}}

{{- range .Values.extraArgs -}}
{{- $option := regexFind "^--[a-z-]+" . -}}
{{- if has $option (list "--volumes" "--admin" "--admin-host" "--admin-socket" "--exports" "--provisioner" "--nfs-server" "--nfs-service" "--kubeconfig" "--namespaces" "--lease-name" "--lease-namespace" "--purge-rate" "--recount" "--overcommit" "--grace" "--log-format") -}}
{{- fail (printf "extraArgs: %s is set by the chart; there is a value for whatever of it can be chosen" $option) -}}
{{- end -}}
{{- end -}}

{{- $end := .Values.terminationGracePeriodSeconds -}}
{{- if and (not (kindIs "invalid" $end)) (le (int64 $end) (int64 .Values.grace)) -}}
{{- fail (printf "terminationGracePeriodSeconds (%v) must be more than grace (%v), or calls are cut off" $end .Values.grace) -}}
{{- end -}}
{{- end -}}
