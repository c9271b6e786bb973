/* A remote shell without a network: RELAY [-l USER] HOST COMMAND... runs COMMAND here, by sh, as ssh has it run there.
 *
 * All that is said goes through this process, as it goes through ssh: if it is killed, both ends hear no more. What it
 * starts has FAULTS_HERE=agent in its environment. The exit status is the command's.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int to_command[2], from_command[2];

static void pass_on(int from, int to)
{
    static __thread char data[65536];
    for (ssize_t size; (size = read(from, data, sizeof data)) > 0;)
        for (ssize_t done = 0, written; done < size; done += written)
            if ((written = write(to, data + done, size - done)) < 0)
                return;
}

static void *there(void *nothing)
{
    pass_on(0, to_command[1]);
    close(to_command[1]);
    return nothing;
}

int main(int argc, char **argv)
{
    char command[65536] = "";
    int word = argc > 2 && !strcmp(argv[1], "-l") ? 4 : 2;
    for (; word < argc; word++) {
        strncat(command, argv[word], sizeof command - strlen(command) - 2);
        strcat(command, " ");
    }
    if (pipe(to_command) || pipe(from_command))
        return 255;
    pid_t pid = fork();
    if (!pid) {
        dup2(to_command[0], 0);
        dup2(from_command[1], 1);
        for (int which = 0; which < 2; which++) {
            close(to_command[which]);
            close(from_command[which]);
        }
        setenv("FAULTS_HERE", "agent", 1);
        setsid(); /* on another machine no signal of this one's terminal arrives */
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(to_command[0]);
    close(from_command[1]);
    signal(SIGPIPE, SIG_IGN);
    pthread_t thread;
    if (pthread_create(&thread, NULL, there, NULL))
        return 255;
    pass_on(from_command[0], 1);
    close(1);
    int status;
    waitpid(pid, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 255);
}
