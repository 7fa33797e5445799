# Completion of rqd for bash. Generated from the definition of its flags.

_rqd() {
    local current=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD-1]} attached=
    # Bash makes a word of its own of the equals sign.
    if [[ $current == = ]]; then
        current= attached=1
    elif [[ $flag == = ]]; then
        flag=${COMP_WORDS[COMP_CWORD-2]} attached=1
    fi
    COMPREPLY=()
    case ${flag/#--/-} in
        -log-format)
            COMPREPLY=($(compgen -W 'text json' -- "$current"))
            return ;;
        -log-level)
            COMPREPLY=($(compgen -W 'trace debug info warn error off' -- "$current"))
            return ;;
        -http-ca-cert|-http-cert|-http-key|-node-cert|-node-key|-node-ca-cert|-disco-config|-extensions-path|-auth|-auto-backup|-auto-restore|-cdc-config|-otlp-ca-cert|-otlp-cert|-otlp-key|-cpu-profile|-mem-profile|-trace-profile|-cluster-secret-file|-join-as-password-file)
            COMPREPLY=($(compgen -f -- "$current"))
            return ;;
        -node-id|-http-addr|-http-adv-addr|-http-allow-origin|-http-verify-common-name|-raft-addr|-raft-adv-addr|-node-verify-server-name|-node-verify-common-name|-cluster-connect-timeout|-join|-join-attempts|-join-interval|-join-as|-bootstrap-expect|-bootstrap-expect-timeout|-disco-mode|-disco-key|-db-max-ro-conns|-auto-vacuum-int|-auto-optimize-int|-raft-log-level|-raft-snap|-raft-snap-wal-size|-raft-snap-int|-raft-heartbeat-timeout|-raft-election-timeout|-raft-leader-lease-timeout|-raft-commit-timeout|-raft-apply-timeout|-raft-reap-node-timeout|-raft-reap-read-only-node-timeout|-write-queue-capacity|-write-queue-batch-size|-write-queue-timeout|-otlp-endpoint|-otlp-interval|-limit-header-bytes|-limit-body-bytes|-limit-all-bodies-bytes|-limit-statements|-limit-concurrent-requests|-limit-connections|-limit-header-time|-limit-body-pause|-limit-idle-time|-limit-request-time|-limit-result-rows|-limit-result-bytes|-limit-all-results-bytes|-limit-query-time|-limit-write-steps|-limit-write-pages|-limit-write-backlog-bytes|-limit-transfer-rate|-limit-free-space|-limit-wal-bytes|-limit-log-bytes)
            return ;;
        -version|-http-verify-client|-node-no-verify|-node-verify-client|-compress-snap-transport|-raft-non-voter|-fk|-raft-remove-shutdown|-raft-cluster-remove-shutdown|-raft-shutdown-stepdown|-write-queue-tx|-otlp-insecure|-otlp-no-verify|-compat-strict-infinity)
            if [[ $attached ]]; then
                COMPREPLY=($(compgen -W 'true false' -- "$current"))
                return
            fi ;;
    esac
    local flags='-version -node-id -http-addr -http-adv-addr -http-allow-origin -http-ca-cert -http-cert -http-key -http-verify-client -http-verify-common-name -raft-addr -raft-adv-addr -node-cert -node-key -node-ca-cert -node-no-verify -node-verify-client -node-verify-server-name -node-verify-common-name -cluster-connect-timeout -compress-snap-transport -join -join-attempts -join-interval -join-as -bootstrap-expect -bootstrap-expect-timeout -disco-mode -disco-key -disco-config -raft-non-voter -fk -db-max-ro-conns -auto-vacuum-int -auto-optimize-int -extensions-path -raft-log-level -raft-snap -raft-snap-wal-size -raft-snap-int -raft-heartbeat-timeout -raft-election-timeout -raft-leader-lease-timeout -raft-commit-timeout -raft-apply-timeout -raft-remove-shutdown -raft-cluster-remove-shutdown -raft-shutdown-stepdown -raft-reap-node-timeout -raft-reap-read-only-node-timeout -write-queue-capacity -write-queue-batch-size -write-queue-timeout -write-queue-tx -auth -auto-backup -auto-restore -cdc-config -otlp-endpoint -otlp-interval -otlp-insecure -otlp-no-verify -otlp-ca-cert -otlp-cert -otlp-key -cpu-profile -mem-profile -trace-profile -log-format -log-level -cluster-secret-file -join-as-password-file -limit-header-bytes -limit-body-bytes -limit-all-bodies-bytes -limit-statements -limit-concurrent-requests -limit-connections -limit-header-time -limit-body-pause -limit-idle-time -limit-request-time -limit-result-rows -limit-result-bytes -limit-all-results-bytes -limit-query-time -limit-write-steps -limit-write-pages -limit-write-backlog-bytes -limit-transfer-rate -limit-free-space -limit-wal-bytes -limit-log-bytes -compat-strict-infinity'
    case $current in
        --*) COMPREPLY=($(compgen -W "$flags" -P - -- "${current#-}")) ;;
        -*) COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
        *) COMPREPLY=($(compgen -d -- "$current")) ;;
    esac
}

complete -o filenames -F _rqd rqd rqlited
